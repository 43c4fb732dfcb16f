"""Prepare items ahead of their use in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")

_POLL_SECONDS = 0.05  # how soon the thread notices that nobody wants its items any more


@dataclass(frozen=True)
class _End:
    """Last entry of the queue: the items ran out, or `error` stopped them."""

    error: BaseException | None = None


def prefetch(items: Iterable[_T], depth: int = 4) -> Generator[_T, None, None]:
    """Yield `items`, up to `depth` of them prepared ahead by a thread.

    An exception in the thread is raised here, in its turn. Closing or dropping the generator stops the thread.
    """
    ready: queue.Queue[_T | _End] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="cxml-prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(entry := ready.get(), _End):
            yield entry
        if entry.error is not None:
            raise entry.error
    finally:
        stop.set()
        thread.join()


def _produce(items: Iterable[_T], ready: queue.Queue[_T | _End], stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(item, ready, stop):
                return
        _put(_End(), ready, stop)
    except BaseException as error:
        _put(_End(error), ready, stop)


def _put(entry: _T | _End, ready: queue.Queue[_T | _End], stop: threading.Event) -> bool:
    """Wait for room in the queue; False when the consumer has gone."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
