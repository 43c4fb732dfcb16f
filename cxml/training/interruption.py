"""What ends a training from outside: signals that ask it to stop, and processes that hang."""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from cxml.checkpoint import Progress
from cxml.operating_system import STOP_SIGNALS
from cxml.training.loop import Callback

_log = logging.getLogger(__name__)


class StopSignal:
    """While entered, a stop signal is noted instead of ending the process.

    SIGINT is delivered again on leaving, so that Python's own handler then raises KeyboardInterrupt. Signals that the
    process ignores stay ignored. Only the main thread can take signals; where training runs in another one (Ray Train),
    they do what they did before.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._was_interrupted = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]  what signal() returned
        if self._was_interrupted and error is None:
            signal.raise_signal(signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.is_set = True
        self._was_interrupted |= number == signal.SIGINT


class HangGuard(Callback):
    """Ends this process, with the stacks of its threads on standard error, when no step ends for too long.

    Every rank has one, so a job in which one rank hangs shows where each of them is. The clock is the interpreter's
    own (`faulthandler`), which needs no lock: it also fires while compiled code or a driver call is stuck. Between
    epochs, where evaluation may take its time, and during a save, only the process group's time-out holds. After an
    error the clock runs on, since clearing up may wait for ranks that are gone.
    """

    def __init__(self, minutes: float) -> None:
        """`minutes` of 0 never fires."""
        self._seconds = minutes * 60
        self._is_running = False

    def on_epoch_begin(self) -> None:
        """Start the clock."""
        self._restart()

    def on_step_end(self, progress: Progress) -> None:  # noqa: ARG002
        """Start the clock anew."""
        self._restart()

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Stop the clock until the next epoch begins."""
        self._is_running = False
        faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within this context, for what may take longer than a step; then start it anew if it ran."""
        faulthandler.cancel_dump_traceback_later()
        yield
        if self._is_running:
            self._restart()

    def on_end(self) -> None:
        """Stop the clock; after an error start it for the last time."""
        error = sys.exc_info()[1]
        if error is None:
            faulthandler.cancel_dump_traceback_later()
            return
        _log.error("Training ends: %s", error)  # clearing up may hang, and then nobody else says it
        self._restart()

    def close(self) -> None:
        """Stop the clock for good, once all is cleared up."""
        faulthandler.cancel_dump_traceback_later()

    def _restart(self) -> None:
        self._is_running = True
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True)
