"""The learning rate of each parameter over a run.

The level heads have ten times the encoder's learning rate (the paper's settings). A bottleneck has the learning rate of
the heads, because it starts with random directions (docs/decisions/0019). Over a run the rates follow the paper's
three-phase one-cycle, a pure function of the position in the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cxml.config import OptimConfig
from cxml.model.encoder import is_pretrained
from cxml.optim.row_adamw import RowSchedule


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups for AdamW with the peak `lr`, without frozen parameters and empty groups.

    Weight matrices have weight decay; biases and norm weights, all one-dimensional, do not. If the encoder is frozen
    and all classifiers are sharded rows, there is one empty group, because AdamW requires a group.
    """
    peaks = {
        "encoder": (config.encoder_lr, config.encoder_weight_decay),
        "classifier": (config.classifier_lr, config.classifier_weight_decay),
    }
    groups = []
    for part, (lr, decay) in peaks.items():
        for decays in (True, False):
            params = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and is_pretrained(name) == (part == "encoder")
                and (parameter.ndim >= 2) == decays
            ]
            if params:
                groups.append({"params": params, "lr": lr, "weight_decay": decay if decays else 0.0})
    return groups or [{"params": [], "lr": config.encoder_lr, "weight_decay": 0.0}]


_START = 1 / 10  # initial learning rate relative to the peak
_END = 1 / 1000  # final learning rate relative to the peak


@dataclass(frozen=True)
class Cycle:
    """The schedule's values at one step: the learning rate relative to its peak, and AdamW's beta1."""

    lr_factor: float
    beta1: float


def one_cycle(step: float, *, steps_per_epoch: int, epochs: float, config: OptimConfig) -> Cycle:
    """Cosine warm-up, constant phase, cosine decay over the last epochs; beta1 is the mirror image.

    In a run shorter than warm-up and decay together, both shrink in proportion.

    Args:
        step: completed optimiser steps, from 0; fractional if the run is stretched or compressed.
        steps_per_epoch: optimiser steps per epoch.
        epochs: epochs of the whole run, with the fraction of the last one.
        config: the phases' lengths and beta1's range.
    """
    shrink = min(1.0, epochs / max(config.warmup_epochs + config.decay_epochs, 1e-9))
    warmup = config.warmup_epochs * shrink * steps_per_epoch
    decay = config.decay_epochs * shrink * steps_per_epoch
    total = epochs * steps_per_epoch
    if step < warmup:
        progress = _cosine(step / warmup)
        return Cycle(_between(_START, 1.0, progress), _between(config.beta1_high, config.beta1_low, progress))
    if step < total - decay or decay == 0:
        return Cycle(1.0, config.beta1_low)
    progress = _cosine(min(1.0, (step - (total - decay)) / decay))
    return Cycle(_between(1.0, _END, progress), _between(config.beta1_low, config.beta1_high, progress))


def _cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


class Schedule:
    """Sets an AdamW's learning rates and beta1 before each step; the groups' `lr` at construction is their peak."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        steps_per_epoch: int,
        epochs: float,
        config: OptimConfig,
        rows: RowSchedule | None = None,
        rows_lr: float = 0.0,
    ) -> None:
        """Control an optimizer, and the rows of the label head if they have their own optimiser.

        `rows_lr` is the rows' peak learning rate; 0 for that of the classifiers.
        """
        self._optimizer = optimizer
        self._rows = rows
        self._rows_peak = rows_lr or config.classifier_lr
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._steps_per_epoch = steps_per_epoch
        self._epochs = epochs
        self._config = config

    def apply(self, step: float) -> Cycle:
        """Set the values for `step` (optimiser steps already taken) and return them."""
        cycle = one_cycle(step, steps_per_epoch=self._steps_per_epoch, epochs=self._epochs, config=self._config)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * cycle.lr_factor
            group["betas"] = (cycle.beta1, self._config.beta2)
        if self._rows is not None:
            self._rows.begin_step(self._rows_peak * cycle.lr_factor, cycle.beta1)
        return cycle
