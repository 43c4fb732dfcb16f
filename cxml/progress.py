"""Progress of long work, shown according to the environment.

    in a notebook     a bar below the cell
    on a terminal     a bar at the bottom, log lines above it
    elsewhere         periodic log lines, because bars garble the log of a batch job

If another process reads and shows the standard error of this one (`cxml.train` in a notebook), this process forwards
its progress: it writes lines that start with `MARK`, and `Relay` turns them into bars.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import logging
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

MARK = "\x1e"
"""Prefix of lines of forwarded progress: ASCII's record separator, which log lines never contain."""
_RELAYED = "CXML_PROGRESS"  # environment variable of processes that forward their progress
_LEAST_SECONDS = 0.1  # between two updates of a bar


class Bar(ABC):
    """A progress bar. It limits the rate of updates, and always shows the last one."""

    def __init__(self) -> None:
        self._shown_at = 0.0

    def update(self, done: int, total: int | None, text: str) -> None:
        """Show that `done` of `total` (None if unknown) items are done, with a text."""
        now = time.monotonic()
        if done == total or now - self._shown_at >= _LEAST_SECONDS:
            self._shown_at = now
            self._show(done, total, text)

    def close(self) -> None:  # noqa: B027 - most bars have nothing to close
        """Finish the bar."""

    @abstractmethod
    def _show(self, done: int, total: int | None, text: str) -> None:
        """Show this state."""


def live_bar() -> Bar | None:
    """A new bar if the environment can show one; None for log lines."""
    if os.environ.get(_RELAYED):
        return _PassedOnBar()
    if _in_notebook():
        return _NotebookBar()
    return _TerminalBar() if sys.stderr is not None and sys.stderr.isatty() else None


@contextlib.contextmanager
def meter(description: str, total: int | None, every_seconds: float = 10.0) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work within this context.

    Args:
        description: description of the work, such as "Tokenising train".
        total: number of items; None if unknown.
        every_seconds: least seconds between two log lines.

    Yields:
        A thread-safe function to call with the number of newly completed items.
    """
    bar = live_bar()
    began = last = time.monotonic()
    done, lock = 0, threading.Lock()

    def advance(count: int) -> None:
        nonlocal done, last
        with lock:
            done += count
            if bar is not None:
                bar.update(done, total, description)
            elif (now := time.monotonic()) - last >= every_seconds:
                last = now
                _log.info("%s: %s", description, _how_far(done, total, now - began))

    try:
        yield advance
        if bar is None:
            _log.info("%s: %d done in %.1f s", description, done, time.monotonic() - began)
    finally:
        if bar is not None:
            bar.close()


def track(items: Iterable[_T], total: int | None, description: str, every_seconds: float = 10.0) -> Iterator[_T]:
    """Yield `items`, and show the number of processed items; see `meter`."""
    with meter(description, total, every_seconds) as advance:
        for item in items:
            yield item
            advance(1)


def relayed_environment() -> dict[str, str]:
    """Environment variables for a new process that forwards its progress if this one can show bars; else empty."""
    return {_RELAYED: "1"} if _in_notebook() or (sys.stderr is not None and sys.stderr.isatty()) else {}


def progress_as_lines() -> dict[str, str]:
    """Environment variables for a process that logs its progress in lines, because its output goes elsewhere."""
    return {_RELAYED: ""}


class Relay:
    """Shows the progress forwarded by another process."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar | None] = {}

    def take(self, line: str) -> bool:
        """Show a line of forwarded progress. Returns False for other lines, which the caller prints."""
        if not line.startswith(MARK):
            return False
        with contextlib.suppress(ValueError, KeyError):  # concurrent writers may mix lines
            message = json.loads(line[len(MARK) :])
            if "text" in message:
                self._update(message)
            elif (bar := self._bars.pop(message["bar"], None)) is not None:
                bar.close()
        return True

    def _update(self, message: dict[str, Any]) -> None:
        name = message["bar"]
        if name not in self._bars:
            self._bars[name] = live_bar()
        if (bar := self._bars[name]) is not None:
            bar.update(message["done"], message["total"], message["text"])

    def close(self) -> None:
        """Finish the bars of a process that has ended."""
        for bar in self._bars.values():
            if bar is not None:
                bar.close()
        self._bars.clear()


def _how_far(done: int, total: int | None, seconds: float) -> str:
    per_second = max(done, 1) / max(seconds, 1e-9)
    if total is None:
        return f"{done}, {per_second:.0f}/s"
    return f"{done} of {total}, {per_second:.0f}/s, {(total - done) / per_second:.0f} s left"


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel or similar."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _PassedOnBar(Bar):
    """Writes lines for a `Relay`."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self._name = f"{os.getpid()}-{next(self._numbers)}"

    def _show(self, done: int, total: int | None, text: str) -> None:
        self._write({"bar": self._name, "done": done, "total": total, "text": text})

    def close(self) -> None:
        self._write({"bar": self._name})

    def _write(self, message: dict[str, Any]) -> None:
        sys.stderr.write(f"{MARK}{json.dumps(message)}\n")
        sys.stderr.flush()


class _NotebookBar(Bar):
    """An updatable cell output, which works in every notebook without widgets."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def _show(self, done: int, total: int | None, text: str) -> None:
        from IPython.display import display  # noqa: PLC0415 - it is there where this is a notebook

        shown = _Shown(done, total, text)
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


class _Shown:
    """A state of a bar for display in a notebook."""

    def __init__(self, done: int, total: int | None, text: str) -> None:
        self._done, self._total, self._text = done, total, text

    def __repr__(self) -> str:
        return f"{self._text}: {self._done}" + (f" of {self._total}" if self._total is not None else "")

    def _repr_html_(self) -> str:
        extent = f'value="{self._done}" max="{self._total}"' if self._total is not None else ""
        return f"<progress {extent}></progress> {html.escape(repr(self))}"


class _TerminalBar(Bar):
    """A line of the terminal's shared display below the log. The last closed bar stays visible."""

    _display: Progress | None = None
    _open = 0

    def __init__(self) -> None:
        super().__init__()
        if _TerminalBar._display is None:
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            _TerminalBar._display = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
            _TerminalBar._display.start()
        _TerminalBar._open += 1
        self._task: TaskID | None = None

    def _show(self, done: int, total: int | None, text: str) -> None:
        display = _TerminalBar._display
        assert display is not None, "a bar is open"
        if self._task is None:
            self._task = display.add_task(text, total=total)
        display.update(self._task, completed=done, total=total, description=text)

    def close(self) -> None:
        display = _TerminalBar._display
        assert display is not None, "this bar is open"
        _TerminalBar._open -= 1
        if _TerminalBar._open:
            if self._task is not None:
                display.remove_task(self._task)
        else:
            display.stop()
            _TerminalBar._display = None
