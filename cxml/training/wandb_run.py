"""A run in Weights & Biases, configured by `wandb login`, WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY.

Its library sends the data from a separate process, over a Unix socket.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import wandb

from cxml import urls
from cxml.errors import ConfigError

if TYPE_CHECKING:
    from cxml.training.trackers import Outcome

_log = logging.getLogger(__name__)

_OFFLINE = ("offline", "dryrun", "disabled")
_LOGIN = (
    "Run wandb login or set WANDB_API_KEY; or set WANDB_MODE=offline, which keeps the run on this machine until wandb "
    "sync sends it"
)
_EXIT_CODES = {"finished": 0, "stopped": 75, "failed": 1}


def check() -> None:
    """Check the login without prompting.

    Raises:
        ConfigError: the login is missing, or the server rejects it or does not respond.
    """
    with _refused():
        try:
            if wandb.setup().settings.mode not in _OFFLINE and not wandb.login(prompt=False):
                raise ConfigError("log.wandb", True, "the login of Weights & Biases is missing", f"{_LOGIN}.")
        finally:
            wandb.teardown()  # ends the library's process, which a run restarts


def open_run(name: str, run_id: str | None, parameters: Mapping[str, Any]) -> WandbRun:
    """Start a run, or continue the run `run_id`.

    Raises:
        ConfigError: see `check`.
    """
    check()
    with _refused(), _masked_arguments():
        run = wandb.init(id=run_id, name=None if run_id else name, resume="allow" if run_id else None)
        run.define_metric("*", step_metric="step")  # W&B's own steps cannot go back, as a resumed training does
        run.config.update(dict(parameters), allow_val_change=True)
        return WandbRun(run)


class WandbRun:
    """The active run of this process, see `TrackedRun`."""

    def __init__(self, run: wandb.Run) -> None:
        self.id = run.id
        self._run = run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics to the run's history."""
        with _warned():
            self._run.log({**metrics, "step": step})

    def conclude(self, metrics: Mapping[str, float], step: int) -> None:  # noqa: ARG002 - a summary has no steps
        """Set metrics of the run's summary."""
        with _warned():
            self._run.summary.update(dict(metrics))

    def end(self, outcome: Outcome) -> None:
        """Send queued data and end the run: a stopped run as preempted, a failed one as failed."""
        with _warned():
            if outcome == "stopped":
                self._run.mark_preempting()
            self._run.finish(_EXIT_CODES[outcome])


@contextlib.contextmanager
def _masked_arguments() -> Iterator[None]:
    """Mask credentials in the command line, which the library records."""
    arguments = sys.argv
    sys.argv = [urls.masked(each) for each in arguments]
    try:
        yield
    finally:
        sys.argv = arguments


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except wandb.Error as error:
        raise ConfigError("log.wandb", True, f"Weights & Biases says: {str(error).strip()}", f"{_LOGIN}.") from error


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except wandb.Error as error:
        _log.warning("Could not log to Weights & Biases: %s", error)
