"""Forward a command's signals to its worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from cxml.operating_system import KILL, STOP_SIGNALS

_ONE_PRESS_SECONDS = 1.0  # a wrapper may repeat a Ctrl-C that the terminal has already delivered


class SignalRelay:
    """Forwards signals to the processes of a list, which may grow, instead of handling them.

    SIGTERM and SIGUSR1 are forwarded unchanged. SIGINT becomes SIGTERM, and a second one SIGKILL.
    """

    def __init__(self, processes: list[BaseProcess]) -> None:
        self.first: signal.Signals | None = None
        """The first signal that arrived."""
        self.passed_on: list[signal.Signals] = []
        """The signals that were sent to the processes."""
        self._processes = processes
        self._interrupted_at: float | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Handle the signals inside the context. Does nothing outside the main thread; ignored signals stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._take) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def catch_up(self, process: BaseProcess) -> None:
        """Send a new process the last signal that arrived before it was started."""
        if self.passed_on:
            _send(self.passed_on[-1], process)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        passed_on = signal.Signals(number)
        if number == signal.SIGINT:
            before, self._interrupted_at = self._interrupted_at, time.monotonic()
            if before is not None and self._interrupted_at - before < _ONE_PRESS_SECONDS:
                return
            passed_on = signal.SIGTERM if before is None else KILL
        self.first = self.first or signal.Signals(number)
        self.passed_on.append(passed_on)
        for process in self._processes:
            _send(passed_on, process)


def _send(number: signal.Signals, process: BaseProcess) -> None:
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, number)
