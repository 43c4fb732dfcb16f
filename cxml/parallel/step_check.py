"""Skip training steps that are not finite, decided on the device, so that the host does not wait.

A step with losses, gradients or updates that are not finite changes no weight, moment or row. The host is informed with
the next log record, on a CPU immediately. After three consecutive such steps, all further steps are skipped.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from cxml.errors import DivergenceError
from cxml.fused import is_fused

_MOST_IN_A_ROW = 3
_REMEDY = (
    "Lower optim.encoder_lr, optim.classifier_lr and, if set, head.learning_rate, and train again. If this is the "
    "first step, check the weights that training starts from: model.encoder and model.start_from. No checkpoint "
    "contains this step."
)
_log = logging.getLogger(__name__)


class StepCheck:
    """Counts skipped steps. The counts are equal on all ranks, so no communication is needed."""

    def __init__(self, device: torch.device) -> None:
        """Start with no skipped steps."""
        self._device = device
        # Failures in a row, and in all; the number of the first in the row.
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._losses: Tensor | None = None
        self._num_steps = self._failures_reported = 0

    @property
    def num_skipped(self) -> int:
        """Number of skipped steps up to the last `report`."""
        return self._failures_reported

    def check(self, losses: Tensor) -> Tensor:
        """Whether a step may count so far, bool [].

        Args:
            losses: the sums over all ranks that must be finite, float32 [n].
        """
        if not is_fused(losses):
            return losses.isfinite().all() & (self._counts[0] < _MOST_IN_A_ROW)
        from cxml.parallel import triton_step_ops  # noqa: PLC0415 - optional

        is_finite = torch.empty((), dtype=torch.bool, device=losses.device)
        triton_step_ops.launch_check_step(is_finite, losses, self._counts, _MOST_IN_A_ROW)
        return is_finite

    def count(self, step: int, losses: Tensor, own_losses: Tensor, is_finite: Tensor) -> Tensor:
        """Count a step. Returns this rank's losses, or 0 for a skipped step.

        Args:
            step: its number, from 1.
            losses: of the levels, float32 [levels], the sums over all ranks.
            own_losses: this rank's, float32 [levels].
            is_finite: whether it counted, bool [].
        """
        self._num_steps += 1
        if is_fused(losses):
            return self._count_fused(step, losses, own_losses, is_finite)
        in_a_row, in_all, first = self._counts
        failed = ~is_finite
        is_first = failed & (in_a_row == 0)
        before = torch.zeros_like(losses) if self._losses is None else self._losses
        self._losses = torch.where(is_first, losses, before)
        rising = torch.where(failed, (in_a_row + 1).clamp(max=_MOST_IN_A_ROW), 0)
        self._counts = torch.stack([rising, in_all + failed, torch.where(is_first, step, first)])
        if self._device.type == "cpu":
            self.report()
        return torch.where(is_finite, own_losses, 0)

    def _count_fused(self, step: int, losses: Tensor, own_losses: Tensor, is_finite: Tensor) -> Tensor:
        from cxml.parallel import triton_step_ops  # noqa: PLC0415 - optional

        self._losses = torch.zeros_like(losses) if self._losses is None else self._losses
        counted = torch.empty_like(own_losses)
        triton_step_ops.launch_count_step(
            self._counts, self._losses, counted, losses, own_losses, is_finite, step, _MOST_IN_A_ROW
        )  # fmt: skip
        return counted

    def report(self, *, is_last: bool = False) -> None:
        """Log the steps skipped since the last report. Waits for the device.

        Args:
            is_last: training ends.

        Raises:
            DivergenceError: three steps in a row were skipped, or training ends and all were; on all ranks.
        """
        in_a_row, in_all, first = self._counts.tolist()
        if in_a_row == _MOST_IN_A_ROW or (is_last and in_all == self._num_steps):
            assert self._losses is not None, "a step was counted"
            *clusters, labels = self._losses.tolist()
            by_level = [f"level {level} {loss:.4g}" for level, loss in enumerate(clusters)] + [f"labels {labels:.4g}"]
            rest = f", nor are those of the {in_a_row - 1} step(s) after it" if in_a_row > 1 else ""
            raise DivergenceError(
                f"The losses, gradients or updates of step {first} are not finite{rest}, so no weight changed. Losses "
                f"of step {first} are {', '.join(by_level)}. {_REMEDY}"
            )
        if in_all > self._failures_reported:
            _log.warning(
                "Skipped %d step(s) with losses, gradients or updates that are not finite since the last record, the "
                "last at or after step %d",
                in_all - self._failures_reported, first,
            )  # fmt: skip
            self._failures_reported = in_all
