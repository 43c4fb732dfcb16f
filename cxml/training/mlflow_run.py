"""A run in MLflow, configured by MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the variables of the login.

A thread sends the data, because MLflow retries failing requests for minutes. Records are queued while the server does
not respond.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

# MLflow prints the server's URL with its credentials.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from cxml import urls
from cxml.errors import ConfigError

if TYPE_CHECKING:
    from cxml.training.trackers import Outcome

_log = logging.getLogger(__name__)

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # of a request
_REMEDY = (
    "Set MLFLOW_TRACKING_URI to a reachable tracking server (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or "
    "MLFLOW_TRACKING_TOKEN set its login); for a database on this machine, pip install mlflow"
)
_CONTINUE = "; to start another run there, delete tracked.json from the output"


def check() -> None:
    """Check that the tracking server is reachable.

    Raises:
        ConfigError: it does not respond, rejects the login, or the installed package does not support its type.
    """
    with _refused(_REMEDY):
        mlflow.MlflowClient().search_experiments(max_results=1)


def open_run(name: str, run_id: str | None, parameters: Mapping[str, Any]) -> MlflowRun:
    """Start a run with these parameters, or continue the run `run_id`.

    Raises:
        ConfigError: see `check`; or the server does not have the run.
    """
    with _refused(_REMEDY + (_CONTINUE if run_id else "")):
        if run_id is not None:
            run = mlflow.start_run(run_id=run_id)
        else:
            run = mlflow.start_run(run_name=name)
            _send_parameters(run.info.run_id, parameters)
        return MlflowRun(run.info.run_id, is_new=run_id is None)


def end_lost(run_id: str, outcome: Outcome) -> None:
    """End a run that its process left open. Raises `ConfigError` like `check`."""
    client = mlflow.MlflowClient()
    with _refused(_REMEDY):
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, _STATUS[outcome])


class MlflowRun:
    """The active run of this process, see `TrackedRun`."""

    def __init__(self, run_id: str, *, is_new: bool) -> None:
        self.id = run_id
        self._is_new = is_new
        self._client = mlflow.MlflowClient()
        self._thread = ThreadPoolExecutor(1, "cxml-mlflow")
        self._waiting: list[Metric] = []
        self._sending: Future[None] | None = None
        self._last_step: dict[str, int] = {}
        _log.info("MLflow run %s at %s", run_id, urls.masked(mlflow.get_tracking_uri()))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics, except for steps that the run recorded before it was continued."""
        self._waiting += _entries(metrics, step)
        if self._sending is None or self._sending.done():
            self._sending = self._thread.submit(self._send)

    def conclude(self, metrics: Mapping[str, float], step: int) -> None:
        """Set metrics of the whole run. The last value at a step is used."""
        with _warned():
            self._client.log_batch(self.id, metrics=_entries(metrics, step))

    def end(self, outcome: Outcome) -> None:
        """Send queued metrics, and end the run."""
        self._thread.submit(self._send)
        self._thread.shutdown()
        with _warned():
            mlflow.end_run(_STATUS[outcome])

    def _send(self) -> None:
        with _warned():
            while batch := self._waiting[:_MOST_METRICS]:
                if new := [metric for metric in batch if self._is_missing(metric)]:
                    self._client.log_batch(self.id, metrics=new)
                del self._waiting[: len(batch)]  # the training thread appends concurrently

    def _is_missing(self, metric: Metric) -> bool:
        """Whether the run recorded no value of this metric at this or a later step before it was continued."""
        if metric.key not in self._last_step:
            history = [] if self._is_new else self._client.get_metric_history(self.id, metric.key)
            self._last_step[metric.key] = max((each.step for each in history), default=-1)
        return metric.step > self._last_step[metric.key]


def _entries(metrics: Mapping[str, float], step: int) -> list[Metric]:
    """Metrics in MLflow's form, which does not allow @ in names."""
    now = int(1000 * time.time())
    return [Metric(name.replace("@", "_at_"), float(value), now, step) for name, value in metrics.items()]


def _send_parameters(run_id: str, parameters: Mapping[str, Any]) -> None:
    client = mlflow.MlflowClient()
    entries = (Param(name, str(value)) for name, value in parameters.items() if value not in ("", None))
    while part := list(itertools.islice(entries, _MOST_PARAMETERS)):
        client.log_batch(run_id, params=part)


@contextlib.contextmanager
def _refused(remedy: str) -> Iterator[None]:
    urls.remember_credentials(mlflow.get_tracking_uri())
    try:
        yield
    except MlflowException as error:
        raise ConfigError("log.mlflow", True, f"MLflow says: {str(error).strip()}", f"{remedy}.") from error


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        _log.warning("Could not log to MLflow: %s", error)
