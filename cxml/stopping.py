"""SIGTERM and SIGUSR1 for a command that works alone: it stops in good order, as on Ctrl-C.

Schedulers send them before they kill. While processes work for the command, `cxml.parallel` hands the signals on, and a
training saves a checkpoint. At all other times the command raises `Stopped`: it gives back its locks, deletes its
temporary folders, and ends the Ray that it started.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from cxml.operating_system import SCHEDULER_SIGNALS


class Stopped(KeyboardInterrupt):
    """One of the signals arrived. It is a kind of Ctrl-C, so that nothing takes it for a failure to recover from."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread when a signal arrives while entered; a second one ends the process at once.

    Only the main thread can take signals; those that are ignored, or that have a handler, are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in SCHEDULER_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Have the signals handled as before after a library has set handlers of its own, unless there was none before."""
    before = {number: signal.getsignal(number) for number in SCHEDULER_SIGNALS}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler not in (signal.SIG_DFL, None):
                signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for each in SCHEDULER_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(signal.Signals(number).name)
