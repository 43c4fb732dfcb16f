"""External causes that end a training: stop signals, and hanging processes."""

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
    """Within this context, a stop signal is recorded instead of ending the process.

    SIGINT is delivered again on exit, so Python's own handler then raises KeyboardInterrupt. Signals that the process
    ignores stay ignored. Only the main thread can handle signals; if training runs in another thread (Ray Train), their
    behaviour does not change.
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
    """Ends this process and prints the stacks of its threads to standard error if no step ends for too long.

    Every rank has one, so a job with a hanging rank shows the position of each rank. The timer is the interpreter's
    `faulthandler`, which needs no lock and therefore also fires while compiled code or a driver call is stuck. Between
    epochs, where evaluation may take long, and during a save, only the process group's timeout applies. After an error
    the timer keeps running, because cleanup may wait for dead ranks.
    """

    def __init__(self, minutes: float) -> None:
        """Create a guard that is not running. `minutes` of 0 disables it."""
        self._seconds = minutes * 60
        self._is_running = False

    def on_epoch_begin(self) -> None:
        """Start the timer."""
        self._restart()

    def on_step_end(self, progress: Progress) -> None:  # noqa: ARG002
        """Restart the timer."""
        self._restart()

    def on_epoch_end(self, epoch: int) -> None:  # noqa: ARG002
        """Stop the timer until the next epoch begins."""
        self._is_running = False
        faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the timer within this context, for work that may take longer than a step. Restart it if it ran."""
        faulthandler.cancel_dump_traceback_later()
        yield
        if self._is_running:
            self._restart()

    def on_end(self) -> None:
        """Stop the timer; after an error start it for the last time."""
        error = sys.exc_info()[1]
        if error is None:
            faulthandler.cancel_dump_traceback_later()
            return
        _log.error("Training ends: %s", error)  # logged here, because cleanup may hang
        self._restart()

    def close(self) -> None:
        """Stop the timer permanently, after the cleanup."""
        faulthandler.cancel_dump_traceback_later()

    def _restart(self) -> None:
        self._is_running = True
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True)
