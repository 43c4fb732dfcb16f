"""Prepare batches ahead of their steps: in a background thread, and on a separate stream of the accelerator."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cxml.data.batch import Batch

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")

_POLL_SECONDS = 0.05  # interval in which the thread checks whether its consumer has stopped


@dataclass(frozen=True)
class _End:
    """Last entry of the queue: the items are exhausted, or `error` occurred."""

    error: BaseException | None = None


def prefetch(items: Iterable[_T], depth: int = 4) -> Generator[_T, None, None]:
    """Yield `items`, up to `depth` of them prepared ahead by a thread.

    An exception in the thread is raised here, after the items before it. Closing or dropping the generator stops the
    thread.
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
    """Wait for space in the queue. Returns False if the consumer has stopped."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False


@dataclass(frozen=True)
class StagedStep:
    """The micro-batches of a step on their device; their copies may still be in progress.

    Attributes:
        micro_batches: micro-batches of the step.
        copied: event after the copies; None if there are none to wait for.
    """

    micro_batches: list[Batch]
    copied: torch.Event | None = None

    def take(self) -> list[Batch]:
        """The micro-batches. This thread's current stream waits for the copies, the host does not."""
        if self.copied is not None:
            from cxml.accelerators import current_stream  # noqa: PLC0415 - it imports torch

            stream = current_stream(self.micro_batches[0].input_ids.device)
            stream.wait_event(self.copied)
            for batch in self.micro_batches:
                for tensor in batch.tensors().values():
                    tensor.record_stream(stream)  # prevents reuse of the memory before this stream is done with it
        return self.micro_batches


def stage(steps: Iterable[list[Batch]], device: torch.device | None) -> Iterator[StagedStep]:
    """Pin and copy the micro-batches of each step, in the thread that prepares them.

    On the CPU (also None) they are not changed.
    """
    if device is None or device.type == "cpu":
        yield from map(StagedStep, steps)
        return
    import torch  # noqa: PLC0415 - see `collate`

    from cxml.accelerators import on_stream, use_device  # noqa: PLC0415 - it imports torch

    stream = torch.Stream(device)
    for micro_batches in steps:
        use_device(device)  # per thread; otherwise pinning would initialise the first device
        with on_stream(stream):
            copies = [batch.to(device) for batch in micro_batches]
            copied = stream.record_event()
        yield StagedStep(copies, copied)
