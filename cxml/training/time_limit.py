"""Time-limited training: at a few points, the number of steps is adjusted to the remaining time and the speed."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from cxml.checkpoint import Progress
from cxml.parallel import Ranks, value_of_first
from cxml.training.loop import StepLimit
from cxml.training.run_length import RunLength, smoothed, steps_in_time

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of a training.

    Attributes:
        seconds: training time since its first start, over all interruptions.
        most: most steps of the run, regardless of the remaining time.
        end_seconds: estimated time of the work at the end of an epoch, used until one has ended.
        used: seconds already used.
    """

    seconds: float
    most: int
    end_seconds: float = 0.0
    used: float = 0.0


class AdaptiveStepLimit(StepLimit):
    """Keeps a run within its time limit by adapting the number of steps to the measured speed.

    The first rank's clock decides. Steps and the work at the ends of epochs are timed separately.
    """

    def __init__(
        self, run_length: RunLength, ranks: Ranks, limit: TimeLimit, *, steps_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Create a step limit.

        Args:
            run_length: length of the run so far.
            ranks: the ranks of this process.
            limit: the time limit of the training.
            steps_per_epoch: optimiser steps per epoch.
            clock: returns the time in seconds.
        """
        super().__init__(run_length)
        self._ranks = ranks
        self._seconds, self._most, self._steps_per_epoch = limit.seconds, limit.most, steps_per_epoch
        self._clock = clock
        self._began = clock() - limit.used
        self._step_began = clock()
        self._in_steps, self._num_steps = 0.0, 0  # since the last adjustment
        self._per_step: float | None = None
        self._end_began: float | None = None
        self._end_seconds, self._num_ends = limit.end_seconds, 0  # mean, and how many it is of

    @property
    def used_seconds(self) -> float:
        """Used seconds of the time limit."""
        return self._clock() - self._began

    def on_epoch_begin(self) -> None:
        """Start timing steps, and stop timing the end of the previous epoch."""
        self._step_began = self._clock()
        if self._end_began is not None:
            self._num_ends += 1
            took = self._step_began - self._end_began
            self._end_seconds = took if self._num_ends == 1 else self._end_seconds + (
                (took - self._end_seconds) / self._num_ends
            )  # fmt: skip
            self._end_began = None

    def on_step_end(self, progress: Progress) -> None:
        """Adjust the number of steps if it is due."""
        now = self._clock()
        self._in_steps, self._step_began = self._in_steps + now - self._step_began, now
        self._num_steps += 1
        if progress.step == self.run_length.next_adjustment and progress.step < self.run_length.total:
            self._adjust(progress.step)

    def _adjust(self, step: int) -> None:
        self._per_step = smoothed(self._per_step, self._in_steps / self._num_steps)
        at_ends = self._end_seconds / self._steps_per_epoch
        own = steps_in_time(
            step, seconds_left=self._seconds - self.used_seconds - self._end_seconds,
            seconds_per_step=max(self._per_step + at_ends, 1e-9), most=self._most,
        )  # fmt: skip
        total = value_of_first(own)
        if self._ranks.is_first and total != self.run_length.total:
            _log.info("Steps in the time limit: %d instead of %d; done: %d", total, self.run_length.total, step)
        self.run_length = self.run_length.after(step, total)
        self._in_steps, self._num_steps = 0.0, 0

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Start timing the end of the epoch. This callback is called first."""
        self._end_began = self._clock()

    def describe(self, progress: Progress) -> Progress:
        """Add the current plan and the used time."""
        return dataclasses.replace(progress, run_length=self.run_length.state(), used_seconds=self.used_seconds)
