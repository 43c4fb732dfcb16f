"""The main function of a worker process: join the ranks, work, report the outcome."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cxml.errors import CxmlError
from cxml.operating_system import allow_interrupts, end_with_parent


@dataclass(frozen=True)
class Success:
    """A worker's work is done.

    Attributes:
        result: what `work` returned on rank 0; None on the others.
    """

    result: Any


@dataclass(frozen=True)
class Failure:
    """A worker's work failed.

    Attributes:
        account: the exception, with its traceback unless cxml raised it on purpose.
        time: when it was raised, in seconds of the clock that all processes of a machine share.
    """

    account: str
    time: float

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception that is being handled."""
        account = f"{type(error).__name__}: {error}"
        if not isinstance(error, CxmlError):
            account = f"{account}\n{''.join(traceback.format_exception(error))}"
        note_failure(error)
        return cls(account, error.__dict__[_RAISED_AT])


Outcome = Success | Failure

_RAISED_AT = "cxml_raised_at"


def note_failure(error: BaseException) -> None:
    """Store the current time on an exception, unless it already has a time."""
    error.__dict__.setdefault(_RAISED_AT, time.monotonic())


def run_worker(
    work: Callable[..., Any], arguments: tuple[object, ...], environment: dict[str, str], outcome: Connection
) -> None:
    """The target of a worker process: `work(*arguments)`, and its outcome as the one message to `outcome`.

    Args:
        work: a function of an importable module.
        arguments: its arguments.
        environment: variables that define this process's rank.
        outcome: where the parent process listens.

    Ctrl-C on a terminal reaches all processes of a command, but the workers react only to the parent's signals.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_interrupts()  # blocked by the parent until here
    end_with_parent()
    os.environ.update(environment)
    try:
        result = work(*arguments)
        outcome.send(Success(result if environment["RANK"] == "0" else None))
    except BaseException as error:
        outcome.send(Failure.of(error))
        raise SystemExit(1) from None
