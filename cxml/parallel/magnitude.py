"""Check before any label row changes that a training step stays within the range of float32.

Rows are updated in the same pass that scores them, so an overflow that shows in the loss has already changed rows.
Instead, an upper bound of the largest weight is tracked without a cost per row: rows are measured once, and each step
adds the largest possible change of a weight. Normal training is many orders of magnitude below the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cxml.optim import RowSchedule, RowTensors
from cxml.optim.row_formats import LARGEST_FP8
from cxml.parallel.exchange import Exchange

_LIMIT = 1e30  # float32 ends at 3e38; the margin is for sums over the features and texts of a step
_BLOCK_ROWS = 65536


class Magnitude:
    """An upper bound of the absolute weights and biases of all rows of a group of ranks, equal on all of them."""

    def __init__(self, exchange: Exchange, *, is_adam: bool) -> None:
        """For rows that the ranks of `exchange` share, with AdamW or plain SGD."""
        self._exchange, self._is_adam = exchange, is_adam
        self._largest: float | None = None

    def forget(self) -> None:
        """Discard the bound, because the rows were replaced."""
        self._largest = None

    def admits(
        self,
        rows: RowTensors,
        features_BD: Tensor,
        losses_above: Sequence[Tensor] | None,
        scale: float,
        schedule: RowSchedule,
    ) -> bool:
        """Whether logits, gradients, their squares and the updated rows of a step are guaranteed to be finite.

        An admitted step increases the bound. A step that is not admitted must not change any row. A collective call,
        whose result is equal on all ranks.

        Args:
            rows: this rank's rows.
            features_BD: features of this rank's texts.
            losses_above: losses of the levels above; if one is not finite, the step is not admitted.
            scale: factor of the rows' gradients.
            schedule: schedule of the current step.
        """
        if self._largest is None:
            own_rows = torch.tensor([_largest(rows)], dtype=torch.float64)
            self._largest = float(self._exchange.gather_rows(own_rows, [1] * self._exchange.size).max())
        own = features_BD.detach().abs().max().item() if features_BD.numel() else 0.0
        if math.isnan(own) or (losses_above and not torch.stack(list(losses_above)).isfinite().all()):
            own = math.inf  # the maximum over ranks is not defined for NaN
        # One bound for all ranks: of the largest feature, and of the texts if all had as many as the fullest.
        largest_feature, most_texts = self._exchange.all_reduce_max(own, len(features_BD))
        if not (math.isfinite(largest_feature) and math.isfinite(self._largest)):
            return False
        width = features_BD.shape[1]
        factor = scale * (most_texts * self._exchange.size)
        gradient = factor * max(largest_feature, 1.0)  # a bias has a feature of 1
        change = _most_adam_change(gradient, width, schedule) if self._is_adam else gradient
        updated = self._largest + schedule.lr * change
        if width * max(largest_feature * self._largest, gradient * gradient, updated) >= _LIMIT:
            return False
        self._largest = updated
        return True


def is_bounded(largest_feature: Tensor, factor: float, width: int, schedule: RowSchedule, *, is_adam: bool) -> Tensor:
    """Whether gradients, their squares and the changes of rows are guaranteed to be finite, bool [].

    For rows whose logits are known to be finite before the update; see `Magnitude.admits`. `largest_feature` is a
    tensor []. The host computes the threshold, so the device needs only one comparison.
    """
    return largest_feature < _largest_admitted(factor, width, schedule, is_adam=is_adam)


def _most_adam_change(gradient: float, width: int, schedule: RowSchedule) -> float:
    """An upper bound of AdamW's change per learning rate, for one second moment per weight or per row."""
    by_epsilon = gradient / schedule.epsilon
    if schedule.beta1**2 >= schedule.beta2:
        return by_epsilon
    # By the inequality of Cauchy and Schwarz between the weights of both averages; 4 is for a beta1 that changes.
    return min(by_epsilon, 4 * math.sqrt(width / (1 - schedule.beta2) / (1 - schedule.beta1**2 / schedule.beta2)))


def _largest_admitted(factor: float, width: int, schedule: RowSchedule, *, is_adam: bool) -> float:
    """The threshold of `is_bounded`: the largest feature must be below it."""
    gradient = math.sqrt(_LIMIT / width)
    if width * schedule.lr * _most_adam_change(math.inf, width, schedule) >= _LIMIT if is_adam else schedule.lr > 0:
        gradient = min(gradient, _LIMIT / (width * schedule.lr) * (schedule.epsilon if is_adam else 1))
    if gradient <= factor:
        return 0.0  # too large even for a feature of 1
    return gradient / factor if factor > 0 else math.inf


def _largest(rows: RowTensors) -> float:
    """The largest absolute weight or bias, NaN if one is NaN; computed block by block, without a copy of all rows.

    For fp8, the largest value that a row's scale allows.
    """
    is_fp8 = rows.weight.dtype == torch.uint8
    found = np.float64(0)
    for start in range(0, rows.num_rows, _BLOCK_ROWS):
        for values, factor in ((rows.scale, LARGEST_FP8) if is_fp8 else (rows.weight, 1.0), (rows.bias, 1.0)):
            least, most = torch.aminmax(values[start : start + _BLOCK_ROWS])
            found = np.max([found, -factor * least.item(), factor * most.item()])  # unlike Python's max it keeps NaN
    return float(found)
