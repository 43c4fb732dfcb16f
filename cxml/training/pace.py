"""How many steps a run has, and where its schedule stands: pure functions of the plans that were made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LOOKS = 16  # of an even run at its pace, besides those towards its end, each after half of what is left


@dataclass(frozen=True)
class Pace:
    """The length of a run: what was planned, and how the plan was changed on the way.

    Attributes:
        turns: (step, total) pairs, rising by step from 0: from that step on the run had so many steps in all.
    """

    turns: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, total: int) -> Pace:
        """A run of so many steps."""
        return cls(((0, total),))

    @classmethod
    def from_state(cls, state: Sequence[Sequence[int]], total: int) -> Pace:
        """What `state` gave; where it is empty, a run of `total` steps."""
        return cls(tuple((int(step), int(steps)) for step, steps in state)) if state else cls.of(total)

    def state(self) -> list[list[int]]:
        """Of a checkpoint."""
        return [list(turn) for turn in self.turns]

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.turns[-1][1]

    @property
    def next_look(self) -> int:
        """The step after which the pace is looked at again."""
        step, total = self.turns[-1]
        return step + max(1, min((total - step) // 2, self.turns[0][1] // _LOOKS))

    def after(self, step: int, total: int) -> Pace:
        """With another total from a step on, which is later than those of all turns."""
        assert self.turns[-1][0] < step < total, (self.turns, step, total)
        return Pace((*self.turns, (step, total)))

    def position(self, step: int) -> float:
        """Where the schedule stands before a step, in steps of the first plan.

        It rises evenly in each turn, so that it would reach the end of that plan with the last step of the turn.
        """
        planned = self.turns[0][1]
        begun = [turn for turn in self.turns if turn[0] <= step]
        place = 0.0
        for (start, total), (stop, _) in zip(begun, [*begun[1:], (step, 0)], strict=True):
            place += (planned - place) * (stop - start) / (total - start)
        return place


def smoothed(before: float | None, seconds: float) -> float:
    """An estimate of a step's seconds from the one before and what the last steps took: half of each.

    The last steps alone would follow every hiccup of a shared machine, and the mean of all none of its changes.
    """
    return seconds if before is None else (before + seconds) / 2


def steps_in_time(step: int, *, seconds_left: float, seconds_per_step: float, most: int) -> int:
    """Steps of a whole run of which `step` are done, so that it ends in time; at least one more, at most `most`."""
    more = int(seconds_left / seconds_per_step) if seconds_left > 0 else 0
    return max(step + 1, min(step + more, most))
