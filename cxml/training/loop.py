"""The training loop. Logging, saving and evaluation are callbacks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist

from cxml.accelerators import device_memory
from cxml.checkpoint import Progress
from cxml.data import Batch, TrainLoader
from cxml.operating_system import return_freed_memory
from cxml.optim import Schedule
from cxml.parallel import Engine, Ranks
from cxml.training.flops import Utilisation
from cxml.training.run_length import RunLength
from cxml.training.step import train_step


@dataclass(frozen=True)
class StepReport:
    """A log record. Losses are means over all ranks since the last record.

    Attributes:
        step: optimiser steps done.
        total_steps: optimiser steps of the whole run.
        epoch: completed epochs, with the fraction of the current one.
        level_losses: mean loss of each level, labels last.
        lr_factor: share of the peak learning rate.
        samples_per_second: texts trained per second over all ranks, since the last record.
        tokens_per_second: their tokens, without padding.
        padding: share of padding among all computed tokens, since the last record.
        data_wait: share of the time spent waiting for batches, on this rank.
        memory_gib: resident memory of this process, in GiB.
        device_memory_gib: accelerator memory of this process's tensors, in GiB; None on a CPU.
        device_peak_gib: peak of that memory since the process began, in GiB.
        gradient_norm: norm of the engine's gradients in the last step, before clipping; None if it is not finite.
        skipped_steps: steps since the last record that were skipped because they were not finite.
        flop_utilisation: model FLOP utilisation; None if the devices' peak is unknown.
        seconds: time since the loop began, without callbacks at the ends of epochs.
        first_step: completed steps before the loop began, for a resumed run.
    """

    step: int
    total_steps: int
    epoch: float
    level_losses: tuple[float, ...]
    lr_factor: float
    samples_per_second: float
    tokens_per_second: float
    padding: float
    data_wait: float
    memory_gib: float
    seconds: float
    device_memory_gib: float | None = None
    device_peak_gib: float | None = None
    gradient_norm: float | None = None
    skipped_steps: int = 0
    flop_utilisation: float | None = None
    first_step: int = 0

    @property
    def loss(self) -> float:
        """Sum over the levels, unweighted."""
        return sum(self.level_losses)

    @property
    def seconds_left(self) -> float:
        """Estimated time to the last step at the run's mean speed so far."""
        return self.seconds / (self.step - self.first_step) * (self.total_steps - self.step)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of held-out texts at the end of an epoch.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        split: split of the texts, such as `validation`.
        levels: metrics of each level in percent, labels last.
    """

    step: int
    epoch: int
    split: str
    levels: Sequence[Mapping[str, float]]


class Callback:
    """Hooks of the loop. They are called on every rank in the same order, so collective calls are allowed.

    Attributes:
        wants_stop: set on all ranks together to end the loop after the current step or epoch.
        is_finished: set on all ranks together at an epoch's end if more epochs would not help.
    """

    wants_stop = False
    is_finished = False

    def on_epoch_begin(self) -> None:
        """Called before the first step of an epoch, or of the rest of one."""

    def on_step_end(self, progress: Progress) -> None:
        """Called after every step, before the end of an epoch."""

    def on_record(self, report: StepReport) -> None:
        """Called every `log.every_steps` steps, and at the last step of an epoch."""

    def on_epoch_end(self, epoch: int) -> None:
        """Called after `epoch` epochs, counted from 1."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Called after an evaluation at an epoch's end."""

    def on_end(self) -> None:
        """Called after the last epoch, and also when training stops with an error."""

    def describe(self, progress: Progress) -> Progress:
        """Add this callback's state for a checkpoint to `progress`."""
        return progress


class StepLimit(Callback):
    """Determines the length of the run; this class never changes it."""

    def __init__(self, run_length: RunLength) -> None:
        """Start with a length; a resumed run uses that of its checkpoint."""
        self.run_length = run_length


def fit(
    engine: Engine,
    loader: TrainLoader,
    schedule: Schedule,
    ranks: Ranks,
    *,
    step_limit: StepLimit,
    record_every: int,
    callbacks: Sequence[Callback],
    start: Progress | None = None,
    utilisation: Utilisation | None = None,
) -> bool:
    """Train for the number of steps of `step_limit`, with a record every `record_every` steps.

    The last epoch may be partial; the callbacks at the end of epochs are called for it too.

    Args:
        engine: the engine of the model.
        loader: the batches.
        schedule: learning rates.
        ranks: the ranks of this process.
        step_limit: the length of the run; one of the callbacks.
        record_every: steps between records.
        callbacks: callbacks in the order of their calls.
        start: progress of a resumed run.
        utilisation: for the FLOP utilisation; None if unknown.

    Returns:
        Whether the training is finished: after its last step, or by early stopping. If not, a callback requested to
        stop.
    """
    start = start or Progress()
    recorder = _Recorder(engine, ranks, step_limit, start, utilisation)
    first_epoch, first_step = divmod(start.step, loader.steps_per_epoch)
    try:
        epochs_done = math.ceil(start.step / loader.steps_per_epoch)
        ended = _end_epoch(callbacks, epochs_done) if start.before_epoch_end else _ended(callbacks)
        if ended is not None:
            return ended or start.step >= step_limit.run_length.total
        for epoch in itertools.count(first_epoch):
            if epoch * loader.steps_per_epoch + first_step >= step_limit.run_length.total:
                return True
            engine.train()
            for callback in callbacks:
                callback.on_epoch_begin()
            recorder.start_waiting()
            steps_before = epoch * loader.steps_per_epoch + first_step
            for step, micro_batches in enumerate(loader.epoch(epoch, first_step), start=steps_before):
                recorder.stop_waiting()
                cycle = schedule.apply(step_limit.run_length.position(step))
                level_losses = train_step(engine, micro_batches, ranks, step + 1)
                recorder.add(level_losses, micro_batches)
                steps_done = step + 1
                is_last = steps_done >= step_limit.run_length.total
                is_epoch_end = is_last or steps_done % loader.steps_per_epoch == 0
                if steps_done % record_every == 0 or is_epoch_end:
                    engine.step_check.report(is_last=is_last)
                    recorder.record(steps_done, steps_done / loader.steps_per_epoch, cycle.lr_factor, callbacks)
                for callback in callbacks:
                    callback.on_step_end(recorder.progress(steps_done, is_epoch_end=is_epoch_end))
                if any(callback.wants_stop for callback in callbacks):
                    return False
                if is_last:
                    break
                recorder.start_waiting()
            first_step = 0
            if (ended := _end_epoch(callbacks, epoch + 1)) is not None:
                return ended or is_last
            recorder.restart_clock()
        raise AssertionError("the loop returns")
    finally:
        for callback in callbacks:
            callback.on_end()


def _end_epoch(callbacks: Sequence[Callback], epochs_done: int) -> bool | None:
    """Call the callbacks at the end of an epoch; see `_ended`."""
    for callback in callbacks:
        callback.on_epoch_end(epochs_done)
    return _ended(callbacks)


def _ended(callbacks: Sequence[Callback]) -> bool | None:
    """None if training continues, True if it is finished, False if it is stopped."""
    is_finished = any(callback.is_finished for callback in callbacks)
    return is_finished if is_finished or any(callback.wants_stop for callback in callbacks) else None


class _Recorder:
    """Accumulates losses, times and tokens between records; synchronises with the device only for a record."""

    def __init__(
        self, engine: Engine, ranks: Ranks, step_limit: StepLimit, start: Progress, utilisation: Utilisation | None
    ) -> None:
        self._engine = engine
        self._ranks = ranks
        self._step_limit = step_limit
        self._first_step = start.step
        self._utilisation = utilisation
        self._process = psutil.Process()
        self._training_seconds = 0.0
        self._wait_began = 0.0
        self._skipped_before = 0
        self._clear()
        self._losses = None if start.losses is None else start.losses.to(ranks.device)
        self._steps = start.unrecorded_steps

    def _clear(self) -> None:
        self._losses: torch.Tensor | None = None
        self._steps = 0
        self._texts = 0
        self._tokens = self._computed_tokens = 0  # of this rank; without padding, and with it
        self._flops = 0.0
        self._data_wait_seconds = 0.0
        self._began = time.perf_counter()

    def start_waiting(self) -> None:
        self._wait_began = time.perf_counter()

    def stop_waiting(self) -> None:
        self._data_wait_seconds += time.perf_counter() - self._wait_began

    def restart_clock(self) -> None:
        """Exclude the time of callbacks at an epoch's end; every epoch ends with a report."""
        self._began = time.perf_counter()

    @property
    def num_counted(self) -> int:
        """Steps since the last record that were not skipped, as known from `StepCheck.report`."""
        return self._steps - (self._engine.step_check.num_skipped - self._skipped_before)

    def progress(self, step: int, *, is_epoch_end: bool) -> Progress:
        """The progress after `step` steps, before the callbacks at the end of an epoch."""
        return Progress(step, self._losses, self.num_counted, before_epoch_end=is_epoch_end)

    def add(self, level_losses: torch.Tensor, micro_batches: Sequence[Batch]) -> None:
        self._losses = level_losses if self._losses is None else self._losses + level_losses
        self._steps += 1
        self._texts += micro_batches[0].global_size
        for batch in micro_batches:
            self._tokens += int(batch.row_lengths.sum())
            self._computed_tokens += batch.input_ids.numel()
            if self._utilisation is not None:
                self._flops += self._utilisation.flops.of(batch.row_lengths, batch.size)

    def record(self, step: int, epoch: float, lr_factor: float, callbacks: Sequence[Callback]) -> None:
        """Send a record to all callbacks. If all steps were skipped, the next record includes this window."""
        if self.num_counted:
            report = self.report(step, epoch, lr_factor)
            for callback in callbacks:
                callback.on_record(report)

    def report(self, step: int, epoch: float, lr_factor: float) -> StepReport:
        """The means and rates since the last record; a collective call that begins the next window."""
        losses, tokens, computed_tokens, flops = self._sums()
        seconds = time.perf_counter() - self._began
        self._training_seconds += seconds
        memory = device_memory(self._ranks.device)
        report = StepReport(
            step=step,
            total_steps=self._step_limit.run_length.total,
            epoch=epoch,
            level_losses=tuple(losses),
            lr_factor=lr_factor,
            samples_per_second=self._texts / seconds,
            tokens_per_second=tokens / seconds,
            padding=1 - tokens / max(1.0, computed_tokens),
            data_wait=self._data_wait_seconds / seconds,
            memory_gib=self._process.memory_info().rss / 2**30,
            seconds=self._training_seconds,
            device_memory_gib=memory and memory[0] / 2**30,
            device_peak_gib=memory and memory[1] / 2**30,
            gradient_norm=_finite(self._engine.get_global_grad_norm()),
            skipped_steps=self._engine.step_check.num_skipped - self._skipped_before,
            flop_utilisation=self._utilisation and flops / seconds / self._utilisation.peak / self._ranks.world_size,
            first_step=self._first_step,
        )
        self._skipped_before = self._engine.step_check.num_skipped
        self._clear()
        return report

    def _sums(self) -> tuple[list[float], float, float, float]:
        """Mean losses of the levels; tokens, tokens with padding, and operations of all ranks since the last record."""
        assert self._losses is not None, "a report follows at least one step"
        own = torch.tensor([self._tokens, self._computed_tokens, self._flops], dtype=torch.float64)
        sums = torch.cat([(self._losses / self.num_counted).double(), own.to(self._ranks.device)])
        if self._ranks.world_size > 1:
            dist.all_reduce(sums)
        *losses, tokens, computed_tokens, flops = sums.tolist()
        return losses, tokens, computed_tokens, flops


def _finite(norm: torch.Tensor | float | None) -> float | None:
    return float(norm) if norm is not None and math.isfinite(norm) else None


_EVERY_STEPS = 20


class ReturnMemory(Callback):
    """Returns freed memory to the operating system.

    Batch sizes differ, so the next step can reuse freed memory only partly, and the process would grow for thousands of
    steps.
    """

    def on_step_end(self, progress: Progress) -> None:
        """Every 20 steps."""
        if progress.step % _EVERY_STEPS == 0:
            return_freed_memory()
