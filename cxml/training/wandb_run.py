"""A run in Weights & Biases. Its own settings say where: `wandb login`, WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY.

Its library sends what is logged from a process of its own, over a Unix socket.
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
    from cxml.training.tracked import Outcome

_log = logging.getLogger(__name__)

_OFFLINE = ("offline", "dryrun", "disabled")
_LOGIN = (
    "Run wandb login or set WANDB_API_KEY; or set WANDB_MODE=offline, which keeps the run on this machine until wandb "
    "sync sends it"
)
_EXIT_CODES = {"finished": 0, "stopped": 75, "failed": 1}


def check() -> None:
    """Refuse a missing or wrong login, without asking for one.

    Raises:
        ConfigError: the login is missing, or the server refuses it or does not answer.
    """
    with _refused():
        try:
            if wandb.setup().settings.mode not in _OFFLINE and not wandb.login(prompt=False):
                raise ConfigError("log.wandb", True, "there is no login of Weights & Biases", f"{_LOGIN}.")
        finally:
            wandb.teardown()  # ends the library's process, which a run starts again


def open_run(name: str, run_id: str | None, parameters: Mapping[str, Any]) -> WandbRun:
    """Begin a run, or continue the one that has an id.

    Raises:
        ConfigError: see `check`.
    """
    check()
    with _refused(), _masked_arguments():
        run = wandb.init(id=run_id, name=None if run_id else name, resume="allow" if run_id else None)
        run.define_metric("*", step_metric="step")  # steps of W&B's own could not go back, as a training that resumes
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
        """Send what waits, and end the run: one that was stopped as preempted, one that failed as failed."""
        with _warned():
            if outcome == "stopped":
                self._run.mark_preempting()
            self._run.finish(_EXIT_CODES[outcome])


@contextlib.contextmanager
def _masked_arguments() -> Iterator[None]:
    """Hide credentials in the command line, which the library records."""
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
        _log.warning("Weights & Biases did not take what was logged: %s", error)
