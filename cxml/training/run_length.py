"""The number of steps of a run, and the position in its schedule, as pure functions of the plans made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ADJUSTMENTS = 16  # adjustments of a uniform run, besides those near its end, each after half of the remaining steps


@dataclass(frozen=True)
class RunLength:
    """The planned length of a run, and its changes.

    Attributes:
        plans: (step, total) pairs, sorted by step, starting at 0: from `step` on, the plan had `total` steps.
    """

    plans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, total: int) -> RunLength:
        """A run of `total` steps."""
        return cls(((0, total),))

    @classmethod
    def from_state(cls, state: Sequence[Sequence[int]], total: int) -> RunLength:
        """Restore the result of `state`; a run of `total` steps if it is empty."""
        return cls(tuple((int(step), int(steps)) for step, steps in state)) if state else cls.of(total)

    def state(self) -> list[list[int]]:
        """The state for a checkpoint."""
        return [list(plan) for plan in self.plans]

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.plans[-1][1]

    @property
    def next_adjustment(self) -> int:
        """The step after which the length is adjusted next."""
        step, total = self.plans[-1]
        return step + max(1, min((total - step) // 2, self.plans[0][1] // _ADJUSTMENTS))

    def after(self, step: int, total: int) -> RunLength:
        """A run with another total from `step` on, which is later than the steps of all plans."""
        assert self.plans[-1][0] < step < total, (self.plans, step, total)
        return RunLength((*self.plans, (step, total)))

    def position(self, step: int) -> float:
        """The position of the schedule before a step, in steps of the first plan.

        It increases linearly in each plan, so that it reaches the end of the first plan at the last step of each.
        """
        planned = self.plans[0][1]
        begun = [plan for plan in self.plans if plan[0] <= step]
        place = 0.0
        for (start, total), (stop, _) in zip(begun, [*begun[1:], (step, 0)], strict=True):
            place += (planned - place) * (stop - start) / (total - start)
        return place


def smoothed(before: float | None, seconds: float) -> float:
    """An estimate of a step's seconds: the mean of the previous estimate and the time of the last steps.

    The last steps alone would follow every fluctuation of a shared machine, and the mean of all would follow none.
    """
    return seconds if before is None else (before + seconds) / 2


def steps_in_time(step: int, *, seconds_left: float, seconds_per_step: float, most: int) -> int:
    """Total steps of a run that ends in time, after `step` steps; at least one more, at most `most`."""
    more = int(seconds_left / seconds_per_step) if seconds_left > 0 else 0
    return max(step + 1, min(step + more, most))
