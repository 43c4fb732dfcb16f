"""Copy batches to an accelerator ahead of the steps that take them, on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxml.data.batch import Batch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StagedStep:
    """The micro-batches of a step on their device, where their copies may still be under way.

    Attributes:
        micro_batches: of the step.
        copied: comes after the copies; None where there are none to wait for.
    """

    micro_batches: list[Batch]
    copied: torch.Event | None = None

    def take(self) -> list[Batch]:
        """The micro-batches, for this thread's current stream, which waits for the copies; the host does not."""
        if self.copied is not None:
            from cxml.accelerators import current_stream  # noqa: PLC0415 - it imports torch

            stream = current_stream(self.micro_batches[0].input_ids.device)
            stream.wait_event(self.copied)
            for batch in self.micro_batches:
                for tensor in batch.tensors().values():
                    tensor.record_stream(stream)  # its memory is not used again before this stream is done with it
        return self.micro_batches


def stage(steps: Iterable[list[Batch]], device: torch.device | None) -> Iterator[StagedStep]:
    """Pin and copy the micro-batches of each step; to be run by the thread that prepares them.

    On the CPU, which None means too, they stay as they are.
    """
    if device is None or device.type == "cpu":
        yield from map(StagedStep, steps)
        return
    import torch  # noqa: PLC0415 - see `collate`

    from cxml.accelerators import on_stream, use_device  # noqa: PLC0415 - it imports torch

    stream = torch.Stream(device)
    for micro_batches in steps:
        use_device(device)  # of this thread: pinning would begin to use the first one otherwise
        with on_stream(stream):
            copies = [batch.to(device) for batch in micro_batches]
            copied = stream.record_event()
        yield StagedStep(copies, copied)
