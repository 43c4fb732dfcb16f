"""When to save: by steps, by time, after evaluations, and when a signal asks the job to stop."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from cxml.checkpoint import Progress, Saver, TrainingState, checkpoints_url
from cxml.errors import CxmlError
from cxml.parallel import group_patience
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.loop import Callback, StepReport
from cxml.training.trackers import JsonlTracker
from cxml.training.validation import EvaluateDuringTraining

_log = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Saves a run now and then, in the background, and once more before it stops on a signal.

    Ranks agree after every step whether to save: clocks and signals reach them at different moments.
    """

    def __init__(
        self, state: TrainingState, start: Progress, stop: StopSignal, guard: HangGuard, figures: dict[str, float],
        *, others: Sequence[Callback], records: JsonlTracker | None, evaluation: EvaluateDuringTraining | None = None,
    ) -> None:  # fmt: skip
        """Prepare; a collective call.

        Args:
            state: of the run.
            start: where the run stands.
            stop: whether it was asked to stop.
            guard: waits while training waits for a save.
            figures: metrics of the last evaluation, which other callbacks fill in; they are saved along.
            others: callbacks with a state to save along.
            records: put before each save, on the rank that has them: a run that goes on from it has no others of the
                steps before.
            evaluation: what selects the best epoch, if anything does; it is called before this.
        """
        self._config = state.config.checkpoint
        self._saver = Saver(checkpoints_url(state.config), self._config, state.ranks)
        self._group = dist.new_group(backend="gloo", timeout=group_patience(state.config.train.hang_minutes))
        self._state = state
        self._stop, self._guard = stop, guard
        self._figures = figures
        self._others = others
        self._records = records
        self._evaluation = evaluation
        self._evaluated = dict(figures)
        self._progress = start
        self._saved_step = start.step
        self._saved_at = time.monotonic()

    def on_record(self, report: StepReport) -> None:
        """Keep the loss for the next save."""
        self._figures["loss"] = report.loss

    def on_step_end(self, progress: Progress) -> None:
        """Save if it is time or a signal asks to stop; after an epoch's last step only on a signal.

        What else happens at an epoch's end may take long, and a signal leaves little time. A run that goes on does it.
        """
        self._progress = progress
        self._saver.report()
        self._act(is_due=not progress.before_epoch_end and self._is_due())

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Save if it is time, after an evaluation if checkpoints are kept by its metrics, and the best epoch always."""
        has_news = self._config.keep_best > 0 and self._figures != self._evaluated
        self._evaluated = dict(self._figures)
        self._progress = dataclasses.replace(self._progress, before_epoch_end=False)
        self._act(is_due=has_news or self._is_due(), is_best=self._evaluation is not None and self._evaluation.has_best)

    def close(self) -> None:
        """Wait for the last save."""
        self._saver.close()

    def _is_due(self) -> bool:
        config = self._config
        by_steps = config.every_steps > 0 and self._progress.step - self._saved_step >= config.every_steps
        seconds = time.monotonic() - self._saved_at
        return by_steps or (config.every_minutes > 0 and seconds >= 60 * config.every_minutes)

    def _act(self, *, is_due: bool, is_best: bool = False) -> None:
        wanted = torch.tensor([is_due, self._stop.is_set, self._saver.is_busy], dtype=torch.int32)
        dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self._group)
        is_due, must_stop, is_busy = map(bool, wanted.tolist())
        if must_stop:
            self._save_and_stop()
        elif is_best:  # every rank says so
            self._finish_save()
            self._save()
        elif is_due and not is_busy:  # if an upload takes longer than the interval, the next save waits for it
            self._save()

    def _save(self) -> None:
        with self._guard.paused():
            self._put_records()
            for callback in self._others:
                self._progress = callback.describe(self._progress)
            self._saver.start(self._state.state_dict(self._progress, dict(self._figures)))
        self._saved_step, self._saved_at = self._progress.step, time.monotonic()

    def _put_records(self) -> None:
        try:
            if self._records is not None:
                self._records.put()
        except CxmlError as error:
            _log.warning("The records of the steps were not put, which is tried again with the next save: %s", error)

    def _finish_save(self) -> None:
        try:
            with self._guard.paused():
                self._saver.wait()
        except CxmlError as error:
            _log.warning("The checkpoint under way was not saved: %s", error)

    def _save_and_stop(self) -> None:
        self._finish_save()
        self._save()
        self._saver.wait()
        self.wants_stop = True
        if self._state.ranks.is_first:
            _log.info("Stopping on a signal after %d steps; a checkpoint holds them", self._progress.step)
