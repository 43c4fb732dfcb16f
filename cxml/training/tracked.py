"""The runs of a training in the experiment trackers MLflow and Weights & Biases.

A training has one run in each tracker enabled in `log`. The first process writes to it. `tracked.json` in the output
stores its id, so a training that resumes from a checkpoint continues its run, and the process that runs the stages adds
the metrics of the test split to it.

The environment variables and files of each tracker configure its location and credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cxml import artefacts, extras, storage, urls
from cxml.checkpoint import Progress, model_url
from cxml.config import Config, config_to_dict
from cxml.errors import CxmlError, InterruptionError
from cxml.training.loop import Callback, Evaluation, StepReport
from cxml.training.trackers import Outcome, known_figures

_log = logging.getLogger(__name__)

Tracker = Literal["mlflow", "wandb"]
_FILE = "tracked.json"
_REMEDY = f"Delete {_FILE} from the output to start a new run in the trackers."


class TrackedRun(Protocol):
    """A tracker's run that this process writes to. Failed writes are logged as warnings."""

    @property
    def id(self) -> str:
        """The tracker's id of the run."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics after `step` optimiser steps, without waiting for the write."""
        ...

    def conclude(self, metrics: Mapping[str, float], step: int) -> None:
        """Set metrics of the whole run, replacing earlier values."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Flush and close the run."""
        ...


@dataclass(frozen=True)
class _Tracked:
    """The content of `tracked.json`.

    Attributes:
        steps: optimiser steps of a finished training; 0 before.
        runs: ids by tracker.
    """

    steps: int = 0
    runs: dict[str, str] = dataclasses.field(default_factory=dict)


class TrackRuns(Callback):
    """Forwards records and evaluations to runs.

    Attributes:
        is_stopped: set if the training ends before its last step without an error.
        steps: completed optimiser steps at the last record.
    """

    def __init__(self, runs: Sequence[TrackedRun], steps: int = 0) -> None:
        self._runs = runs
        self.is_stopped = False
        self.steps = steps

    def on_record(self, report: StepReport) -> None:
        """Log the record's figures."""
        self.steps = report.step
        figures = {f"train/{name}": value for name, value in known_figures(report).items()}
        levels = {f"train/level_loss/{level}": loss for level, loss in enumerate(report.level_losses)}
        self._log({"epoch": report.epoch, **figures, **levels}, report.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Log the metrics of the labels."""
        self._log(_named(evaluation.split, evaluation.levels[-1]), evaluation.step)

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        for run in self._runs:
            run.log(metrics, step)


def require_trackers(config: Config) -> None:
    """Check before the first stage that all trackers are writable.

    Raises:
        ConfigError: a package or login is missing, or a server does not respond; names the remedy.
    """
    for tracker in _wanted(config):
        extras.require(f"log.{tracker}", True, tracker, otherwise="set it to false")
        _adapter(tracker).check()


@contextlib.contextmanager
def tracking(config: Config, start: Progress, *, is_first: bool) -> Iterator[TrackRuns]:
    """Open the runs of a training on the first process, and end them with the outcome of the body.

    Args:
        config: config of the training, with all values set.
        start: start of the training; a resumed training continues its runs.
        is_first: whether this process writes.

    Raises:
        ConfigError: a tracker is not writable, or does not have the run to continue.
    """
    wanted = _wanted(config) if is_first else []
    known = _read(config).runs if start.step and wanted else {}
    outcome: Outcome = "failed"
    with contextlib.ExitStack() as stack:
        runs: dict[str, TrackedRun] = {}
        for tracker in wanted:
            runs[tracker] = _adapter(tracker).open_run(_name(config), known.get(tracker), _parameters(config))
            stack.callback(lambda run=runs[tracker]: run.end(outcome))
        ids = {tracker: run.id for tracker, run in runs.items()}
        if runs:
            _write(config, _Tracked(runs=ids))
        try:
            callback = TrackRuns(list(runs.values()), start.step)
            yield callback
            outcome = "stopped" if callback.is_stopped else "finished"
            if runs and outcome == "finished":
                _write(config, _Tracked(steps=callback.steps, runs=ids))
        except (InterruptionError, KeyboardInterrupt):
            outcome = "stopped"
            raise


@contextlib.contextmanager
def ending_lost_runs(config: Config) -> Iterator[None]:
    """End the runs of a training whose first process was killed in the body; otherwise they would stay open.

    Weights & Biases detects this itself.
    """
    try:
        yield
    except BaseException as error:
        if config.log.mlflow:
            outcome = "stopped" if isinstance(error, InterruptionError | KeyboardInterrupt) else "failed"
            with _warning("the end of the training"):
                if run := _read(config).runs.get("mlflow"):
                    _adapter("mlflow").end_lost(run, outcome)
        raise


def track_report(config: Config, report: Mapping[str, Any]) -> None:
    """Add the labels' metrics on the test split to the runs of a finished training."""
    for tracker in _wanted(config):
        with _warning("the metrics of the test split"):
            tracked = _read(config)
            if run_id := tracked.runs.get(tracker):
                run = _adapter(tracker).open_run(_name(config), run_id, {})
                run.conclude(_named("test", report["levels"][-1]), tracked.steps)
                run.end("finished")


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    """Turn errors of a tracker into warnings, because the run's own files have the data."""
    try:
        yield
    except CxmlError as error:
        _log.warning("Could not write %s to a tracker: %s", what, error)


def _wanted(config: Config) -> list[Tracker]:
    choices: dict[Tracker, bool] = {"mlflow": config.log.mlflow, "wandb": config.log.wandb}
    return [tracker for tracker, is_wanted in choices.items() if is_wanted]


def _adapter(tracker: Tracker) -> Any:  # noqa: ANN401 - a module with `check` and `open_run`
    if tracker == "mlflow":
        from cxml.training import mlflow_run  # noqa: PLC0415 - an extra

        return mlflow_run
    from cxml.training import wandb_run  # noqa: PLC0415 - an extra

    return wandb_run


def _name(config: Config) -> str:
    return urls.name_of(config.output) or "cxml"  # for the root of a bucket


def _named(split: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in metrics.items()}


def _parameters(config: Config) -> dict[str, Any]:
    """Every field by dotted name, and the location of the model, without credentials."""
    values = config_to_dict(config)
    values.pop("auto", None)
    found: dict[str, Any] = {"model": urls.masked(model_url(config))}
    _flatten(values, "", found)
    return found


def _flatten(values: Mapping[str, Any], path: str, found: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{path}{name}.", found)
        else:
            found[f"{path}{name}"] = value


def _read(config: Config) -> _Tracked:
    if not storage.exists(storage.join(config.output, _FILE)):
        return _Tracked()
    values = artefacts.read_object(config.output, _FILE, _REMEDY)
    return artefacts.parse_as(_Tracked, values, storage.join(config.output, _FILE), _REMEDY)


def _write(config: Config, tracked: _Tracked) -> None:
    storage.write_json(storage.join(config.output, _FILE), dataclasses.asdict(tracked))
