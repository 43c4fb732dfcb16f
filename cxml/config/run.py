"""The config of a run: all sections, what holds between them, and the fields that a run may choose."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cxml.config.data import DataConfig
from cxml.config.evaluation import EvaluateConfig, EvidenceConfig
from cxml.config.fields import require, require_at_least
from cxml.config.model import HeadConfig, ModelConfig
from cxml.config.operation import CheckpointConfig, LaunchConfig, LogConfig
from cxml.config.training import OptimConfig, TrainConfig
from cxml.config.tree import TreeConfig


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
        require(bool(self.output), "output", self.output, "is empty", "Name a folder, such as runs/mine.")
        require_at_least("seed", self.seed, 0)
        for name in self.auto:
            near = difflib.get_close_matches(name, CHOOSABLE, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Such fields: {', '.join(CHOOSABLE)}."
            require(name in CHOOSABLE, "auto", name, "is not a field that a run can choose", remedy)
        parts = self.train.num_workers * self.train.accumulation
        require(
            self.train.batch_size >= parts or self.train.batch_tokens > 0 or "train.batch_size" in self.auto,
            "train.batch_size", self.train.batch_size, f"is smaller than num_workers x accumulation = {parts}",
            f"Set it to {parts} or more.",
        )  # fmt: skip
        require(
            self.head.implementation != "zero3" or self.train.zero_stage == 3,
            "head.implementation", self.head.implementation,
            f"needs ZeRO stage 3, but train.zero_stage is {self.train.zero_stage}",
            "Set train.zero_stage to 3, or head.implementation to rows.",
        )  # fmt: skip
        require(
            metric_cutoff(self.train.keep_by) is not None, "train.keep_by", self.train.keep_by,
            "is not a label metric", _METRIC_WANTED,
        )  # fmt: skip
        require(
            self.train.selects or not self.train.patience or "train.keep" in self.auto,
            "train.patience", self.train.patience, "needs a best epoch, but train.keep is last",
            "Set train.keep to best, or leave this out.",
        )  # fmt: skip
        _require_measured(self.checkpoint, self.train)
        row_rate = self.head.learning_rate or self.optim.classifier_lr
        require(
            row_rate * self.optim.classifier_weight_decay < 1,
            "optim.classifier_weight_decay", self.optim.classifier_weight_decay,
            f"times the rows' learning rate {row_rate:g} is 1 or more: a step would change the sign of their weights",
            "Set it to 0, which is usual for SGD with a high learning rate.",
        )  # fmt: skip
        if self.tree.level_sizes == "auto":
            return  # the number of levels depends on the number of labels
        levels = self.num_levels
        for name, expected in (
            ("taps", levels), ("dropouts", levels), ("level_weights", levels), ("shortlist_sizes", levels - 1),
        ):  # fmt: skip
            values = getattr(self.model, name)
            require(
                len(values) in (0, expected), f"model.{name}", values,
                f"has {len(values)} entries, but tree.level_sizes and the labels make {levels} levels",
                f"Give {expected} entries, or leave it empty for the default.",
            )  # fmt: skip

    @property
    def num_levels(self) -> int:
        """Levels of the cascade: those of the tree, and the labels. Raises `ConfigError` like `tree.sizes`."""
        return len(self.tree.sizes) + 1

    @property
    def training_cutoffs(self) -> tuple[int, ...]:
        """The k of evaluations during training: evaluate.top_k, and those of the metrics that select weights."""
        selecting = [self.train.keep_by] if self.train.selects else []
        if self.checkpoint.keep_best:
            selecting.append(self.checkpoint.best_metric)
        cutoffs = [cutoff for cutoff in map(metric_cutoff, selecting) if cutoff is not None]
        return tuple(sorted({*self.evaluate.top_k, *cutoffs}))

    @property
    def tokens_at_once(self) -> int:
        """Maximum tokens per encoder input: those of a window, or of a text."""
        return min(self.data.max_length, self.model.window or self.data.max_length)


_METRIC = re.compile(r"(?:P|RP|nDCG|PSP|PSnDCG|recall)@([1-9][0-9]{0,5})", re.ASCII)
_METRIC_WANTED = "Choose P, RP, nDCG, PSP, PSnDCG or recall at some k, such as nDCG@5."


def metric_cutoff(metric: str) -> int | None:
    """The k of a label metric such as P@1; None for other names."""
    found = _METRIC.fullmatch(metric)
    return int(found[1]) if found else None


def is_reported(metric: str, top_k: Sequence[int]) -> bool:
    """Whether an evaluation with these cut-offs reports a label metric such as P@1."""
    return metric_cutoff(metric) in top_k


def _require_measured(checkpoint: CheckpointConfig, train: TrainConfig) -> None:
    """Refuse checkpoints that are kept by a metric that no evaluation of the run reports."""
    if not checkpoint.keep_best or checkpoint.best_metric == "loss":
        return
    require(
        metric_cutoff(checkpoint.best_metric) is not None, "checkpoint.best_metric", checkpoint.best_metric,
        "is neither loss nor a label metric", _METRIC_WANTED,
    )  # fmt: skip
    require(
        train.evaluation_interval > 0, "checkpoint.best_metric", checkpoint.best_metric,
        "is never measured: train.evaluate_every is 0", "Set train.evaluate_every to 1, or this to loss.",
    )  # fmt: skip


def _choosable(section: type, path: str = "") -> dict[str, Any]:
    """Default of each choosable field of a section and its subsections, by dotted name."""
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
"""The value of a field that the run chooses."""


def _refuse_odd_numbers(section: Any, path: str = "") -> None:  # noqa: ANN401 - any of the dataclasses above
    """Reject values that Python accepts as numbers: booleans, fractions for integers, infinity and NaN."""
    for each in dataclasses.fields(section):
        name, value = f"{path}{each.name}", getattr(section, each.name)
        if dataclasses.is_dataclass(value):
            _refuse_odd_numbers(value, f"{name}.")
            continue
        for part in value if isinstance(value, tuple) else (value,):
            is_known = not isinstance(part, (bool, float)) or type(part).__name__ in str(each.type)
            require(is_known, name, value, f"is not of the type {each.type}", "See --help.")
            is_finite = not isinstance(part, float) or math.isfinite(part)
            require(is_finite, name, value, "is not a finite number", "Write it in decimals, such as 0.5 or 5e-4.")
