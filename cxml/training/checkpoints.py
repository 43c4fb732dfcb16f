"""When to save checkpoints: by steps, by time, after evaluations, and on a stop signal."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from cxml.checkpoint import Progress, Saver, TrainingState, checkpoints_url
from cxml.console import counted
from cxml.errors import CxmlError
from cxml.parallel import collective_timeout
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.loop import Callback, StepReport
from cxml.training.trackers import JsonlTracker
from cxml.training.validation import EvaluateDuringTraining

_log = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Saves checkpoints periodically in the background, and before the run stops on a signal.

    Ranks agree after every step whether to save, because clocks and signals differ between them.
    """

    def __init__(
        self, state: TrainingState, start: Progress, stop: StopSignal, guard: HangGuard, figures: dict[str, float],
        *, others: Sequence[Callback], records: JsonlTracker | None, evaluation: EvaluateDuringTraining | None = None,
    ) -> None:  # fmt: skip
        """Prepare; a collective call.

        Args:
            state: state of the run.
            start: progress of the run.
            stop: stop signal.
            guard: paused while training waits for a save.
            figures: metrics of the last evaluation, filled in by other callbacks and saved in the checkpoint.
            others: callbacks with state to save.
            records: records that are uploaded before each save, on the rank that has them, because a run that resumes
                from the checkpoint needs them.
            evaluation: callback that selects the best epoch, if any; it is called before this one.
        """
        self._config = state.config.checkpoint
        self._saver = Saver(checkpoints_url(state.config), self._config, state.ranks)
        self._group = dist.new_group(backend="gloo", timeout=collective_timeout(state.config.train.hang_minutes))
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
        """Store the loss for the next save."""
        self._figures["loss"] = report.loss

    def on_step_end(self, progress: Progress) -> None:
        """Save if it is due or a signal asks to stop; after an epoch's last step only on a signal.

        The work at the end of an epoch may take long, and a signal leaves little time. A resumed run does that work.
        """
        self._progress = progress
        self._saver.report()
        self._act(is_due=not progress.before_epoch_end and self._is_due())

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Save if it is due, after an evaluation if retention uses its metrics, and always for the best epoch."""
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
        elif is_best:  # the same on every rank
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
            _log.warning("Could not upload the records; retrying with the next save: %s", error)

    def _finish_save(self) -> None:
        try:
            with self._guard.paused():
                self._saver.wait()
        except CxmlError as error:
            _log.warning("Could not save the running checkpoint: %s", error)

    def _save_and_stop(self) -> None:
        self._finish_save()
        self._save()
        self._saver.wait()
        self.wants_stop = True
        if self._state.ranks.is_first:
            _log.info("Stopping on a signal after %s; a checkpoint was saved", counted(self._progress.step, "step"))
