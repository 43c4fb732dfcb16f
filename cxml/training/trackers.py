"""Trackers of a run's metrics: `metrics.jsonl`, optionally TensorBoard, and the console.

`cxml.training.tracked` handles MLflow and Weights & Biases.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Literal

from cxml import extras, storage
from cxml.artefacts import read_records
from cxml.console import counted
from cxml.progress import live_bar
from cxml.training.loop import Callback, Evaluation, StepReport

Outcome = Literal["finished", "stopped", "failed"]
"""How a training ended."""

_log = logging.getLogger(__name__)

_DIGITS = {  # of the fields of a record; unknown values are omitted
    "lr_factor": 6, "samples_per_second": 2, "tokens_per_second": 1, "padding": 4, "data_wait": 5, "memory_gib": 3,
    "device_memory_gib": 3, "device_peak_gib": 3, "gradient_norm": 6, "skipped_steps": 0, "flop_utilisation": 4,
    "seconds": 2,
}  # fmt: skip


def known_figures(report: StepReport) -> dict[str, float]:
    """The loss and the other values of a record by name, without unknown ones."""
    figures = {name: getattr(report, name) for name in ("loss", *_DIGITS)}
    return {name: value for name, value in figures.items() if value is not None}


class JsonlTracker(Callback):
    """One JSON object per record, appended to a local file. Remote files are uploaded at checkpoints and epochs."""

    def __init__(self, url: str, steps_done: int = 0, epochs_done: int = 0) -> None:
        """Start a file. A resumed run keeps the records of its completed steps and the evaluations of its epochs."""
        self._url = url
        self._lines = _records_until(url, steps_done, epochs_done)
        self._path = storage.local_path(url)
        if self._path is not None:
            storage.write_atomic(url, "".join(self._lines).encode())

    def on_record(self, report: StepReport) -> None:
        """Append the record."""
        self.write({"kind": "train", **_rounded(report)})

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Append the metrics."""
        levels = [dict(level) for level in evaluation.levels]
        self.write({"kind": "evaluate", "epoch": evaluation.epoch, "split": evaluation.split, "levels": levels})

    def write(self, record: dict[str, Any]) -> None:
        """Append any record."""
        line = json.dumps(record) + "\n"
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(line)
        else:
            self._lines.append(line)

    def put(self) -> None:
        """Upload the records so far to a store that does not support appending.

        Raises:
            CxmlError: the upload failed.
        """
        if self._path is None:
            storage.write_atomic(self._url, "".join(self._lines).encode())

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Upload the records of the epoch."""
        self.put()

    def on_end(self) -> None:
        """Upload the remaining records."""
        self.put()


class TensorBoardTracker(Callback):
    """Event files in a local folder."""

    def __init__(self, url: str) -> None:
        extras.require("log.tensorboard", True, "tensorboard", otherwise="set it to false")
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an extra

        self._writer = SummaryWriter(str(storage.local_path(url) or url))

    def on_record(self, report: StepReport) -> None:
        """Write the record's scalars."""
        for level, loss in enumerate(report.level_losses):
            self._writer.add_scalar(f"loss/level_{level}", loss, report.step)
        for name, value in known_figures(report).items():
            self._writer.add_scalar(name, value, report.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Write the metrics of the labels as scalars."""
        for name, value in evaluation.levels[-1].items():
            self._writer.add_scalar(f"{evaluation.split}/{name}", value, evaluation.step)

    def on_end(self) -> None:
        """Close the event file."""
        self._writer.close()


class ConsoleTracker(Callback):
    """A progress bar on a terminal, else a line every few seconds; see `cxml.progress`."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._last_line = 0.0
        self._bar = live_bar()

    def on_record(self, report: StepReport) -> None:
        """Show the record if enough time has passed since the last one."""
        if self._bar is not None:
            self._bar.update(report.step, report.total_steps, _line(report))
        elif time.monotonic() - self._last_line >= self._every_seconds or report.step == report.total_steps:
            self._last_line = time.monotonic()
            _log.info("%s", f"{_line(report)} | {_duration(report.seconds_left)} left")

    def on_end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _records_until(url: str, step: int, epoch: int) -> list[str]:
    """The lines of a file of records up to this step and the evaluation of this epoch."""
    kept: list[str] = []
    if step == 0:
        return kept
    for text, record in read_records(url):
        if record.get("step", 0) > step or (record.get("kind") == "evaluate" and record.get("epoch", 0) > epoch):
            break
        kept.append(text)
    return kept


def _line(report: StepReport) -> str:
    levels = " ".join(f"{loss:.4f}" for loss in report.level_losses)
    parts = [
        f"epoch {report.epoch:.2f}",
        f"step {report.step}/{report.total_steps}",
        f"loss {report.loss:.4f} ({levels})",
        f"{report.samples_per_second:.0f} texts/s",
        f"data wait {report.data_wait:.1%}",
        f"{report.memory_gib:.1f} GiB",
    ]
    if report.device_peak_gib is not None:
        parts.append(f"{report.device_peak_gib:.1f} GiB of the device")
    if report.flop_utilisation is not None:
        parts.append(f"{report.flop_utilisation:.0%} of its peak")
    if report.skipped_steps:
        parts.append(f"{counted(report.skipped_steps, 'step')} skipped")
    return " | ".join(parts)


def _rounded(report: StepReport) -> dict[str, Any]:
    record: dict[str, Any] = {"loss": report.loss, "level_losses": list(report.level_losses)}
    record |= {"step": report.step, "epoch": round(report.epoch, 4)}
    known = known_figures(report)
    return record | {name: round(known[name], digits) for name, digits in _DIGITS.items() if name in known}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
