"""Runs DeepSpeed on the fake accelerator of `support.fake_accelerator`: the real engine, whose costs can be counted.

    with fake_accelerator() as device, deepspeed_on_fake_accelerator():
        engine, *_ = deepspeed.initialize(...)

A wait for a stream or an event counts as a wait of the host. Work on any stream is done at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import deepspeed.accelerator
import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import Tensor


class _Stream:
    """A stream or an event; its work is already done, but waits are counted."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def synchronize(self) -> None:
        """Make the host wait."""
        torch.accelerator.synchronize()

    def wait_stream(self, _: object = None) -> None:
        """Make the device wait."""

    wait_event = record_event = record = wait = wait_stream

    def query(self) -> bool:
        """Whether all work is done."""
        return True


class FakeDeepSpeedAccelerator(CPU_Accelerator):
    """DeepSpeed's accelerator interface."""

    _communication_backend_name = "fake"

    def __init__(self) -> None:
        super().__init__()
        self._name, self._communication_backend_name = "fake", "fake"

    def is_synchronized_device(self) -> bool:
        """False, as for a GPU: the host continues before the device has finished."""
        return False

    def device_name(self, device_index: int | None = None) -> str:
        """Name of the device in torch."""
        return "fake" if device_index is None else f"fake:{device_index}"

    def current_device(self) -> int:
        """Index of the only device."""
        return 0

    def current_device_name(self) -> str:
        """Name of the only device in torch."""
        return "fake:0"

    def device(self, device_index: int | None = None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Context without effect, since there is only one device."""
        return nullcontext()

    def device_count(self) -> int:
        """Return 1, the number of devices."""
        return 1

    def synchronize(self, device_index: int | None = None) -> None:  # noqa: ARG002
        """Make the host wait."""
        torch.accelerator.synchronize()

    @property
    def Stream(self) -> type[_Stream]:  # noqa: N802 - DeepSpeed's name
        """Class of streams."""
        return _Stream

    Event = Stream

    def stream(self, stream: object) -> AbstractContextManager[None]:  # noqa: ARG002
        """Context without effect, since all work is done at once."""
        return nullcontext()

    def current_stream(self, device_index: int | None = None) -> _Stream:  # noqa: ARG002
        """A stream; all streams are equivalent."""
        return _Stream()

    default_stream = current_stream  # pyright: ignore[reportAssignmentType]

    def on_accelerator(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device."""
        return tensor.device.type == "fake"


def _tensor_maker(dtype: torch.dtype) -> property:
    def make(_: object) -> Callable[..., Tensor]:
        return functools.partial(torch.tensor, dtype=dtype, device="fake:0")

    return property(make)


for _name, _dtype in (
    ("BFloat16Tensor", torch.bfloat16), ("ByteTensor", torch.uint8), ("DoubleTensor", torch.float64),
    ("FloatTensor", torch.float32), ("HalfTensor", torch.float16), ("IntTensor", torch.int32),
    ("LongTensor", torch.int64),
):  # fmt: skip
    setattr(FakeDeepSpeedAccelerator, _name, _tensor_maker(_dtype))


@contextmanager
def deepspeed_on_fake_accelerator() -> Iterator[None]:
    """Let DeepSpeed compute on the fake accelerator within this context."""
    choose: Any = deepspeed.accelerator.set_accelerator
    before = deepspeed.accelerator.get_accelerator()
    choose(FakeDeepSpeedAccelerator())
    try:
        yield
    finally:
        choose(before)
