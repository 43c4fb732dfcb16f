"""Handle SIGTERM and SIGUSR1 in a command like Ctrl-C, so that it stops cleanly.

Schedulers send these signals before they kill a job. While worker processes run, `cxml.parallel` forwards the signals,
and a training saves a checkpoint. At all other times the command raises `Stopped`: it releases its locks, deletes its
temporary folders, and stops the Ray cluster that it started.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from cxml.operating_system import SCHEDULER_SIGNALS, alarm_after, send_to_thread, set_alarm

_PAUSE = 0.05  # seconds after which a lost signal is sent again


class Stopped(KeyboardInterrupt):
    """One of the signals arrived. It derives from KeyboardInterrupt, so that no handler of failures catches it."""


class OutOfTime(KeyboardInterrupt):
    """The time of `interrupting_after` is over. Like `Stopped`, no handler of failures catches it."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within this context, a signal raises `Stopped` in the main thread, and a second one ends the process at once.

    Only the main thread can handle signals. Signals that are ignored or have a handler are not changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in SCHEDULER_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        with _sending_lost_again():
            yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the signal handlers after a library has replaced them."""
    before = {number: signal.getsignal(number) for number in SCHEDULER_SIGNALS}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler not in (signal.SIG_DFL, None):
                signal.signal(number, handler)


@contextmanager
def interrupting_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the body if it takes longer, like a signal that stops the command.

    On Windows and outside of the main thread, it is only raised before the body, if `seconds` is not positive.
    """
    if seconds <= 0:
        raise OutOfTime
    with alarm_after(seconds, _run_out), _sending_lost_again():
        yield


@contextmanager
def _sending_lost_again() -> Iterator[None]:
    """Send a signal again if Python has dropped the exception of its handler.

    Python drops exceptions in finalizers such as `__del__`. Signals wait for compiled code, which often ends by freeing
    objects, so a handler frequently runs in a finalizer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, main, timers = sys.unraisablehook, threading.get_ident(), list[threading.Timer]()

    def take(lost: sys.UnraisableHookArgs) -> None:
        error = lost.exc_value
        if not isinstance(error, KeyboardInterrupt | SystemExit) or threading.get_ident() != main:
            before(lost)
        elif isinstance(error, OutOfTime):
            set_alarm(_PAUSE)
        else:
            number = signal.SIGINT
            if isinstance(error, Stopped):
                number = signal.Signals[str(error)]
                signal.signal(number, _stop)
            elif isinstance(error, SystemExit):  # of the server's handler
                number = signal.SIGTERM
                signal.signal(number, functools.partial(_end, error))
            timers.append(send_to_thread(main, number, _PAUSE))

    sys.unraisablehook = take
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def _run_out() -> NoReturn:
    raise OutOfTime


def _end(error: SystemExit, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the cleanup
    raise error


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for each in SCHEDULER_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(signal.Signals(number).name)
