"""Torch's accelerator calls under one name each, whatever torch calls them: they were renamed between 2.6 and 2.13."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from cxml import operating_system

_MOST_PRODUCTS = 256  # those of ten sizes of a batch, forward and backward
_PEAK_FLOPS = {  # of dense bf16 products with fp32 sums, by the makers' data sheets; the first name found counts
    "B200": 2250e12, "GH200": 990e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "A100": 312e12, "A30": 165e12, "A10": 125e12, "L40S": 362e12, "L4": 121e12, "MI300X": 1307e12,
}  # fmt: skip


def accelerator_type() -> str | None:
    """The kind of this machine's accelerators, such as "cuda"; None where there is none that works.

    Apple's "mps" is none: torch.distributed has no collectives for it.
    """
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "mps" else found.type


def device_of(local_rank: int) -> torch.device:
    """Where the process with this number on its machine computes."""
    kind = accelerator_type()
    return torch.device("cpu") if kind is None else torch.device(kind, local_rank)


def current_device() -> torch.device:
    """The accelerator that this process uses; the CPU where there is none."""
    kind = accelerator_type()
    if kind is None:
        return torch.device("cpu")
    index = getattr(torch.accelerator, "current_device_index", None) or torch.accelerator.current_device_idx
    return torch.device(kind, index())


def use_device(device: torch.device) -> None:
    """Make an accelerator the one that this process uses; does nothing for the CPU."""
    if device.type != "cpu":
        choose = getattr(torch.accelerator, "set_device_index", None) or torch.accelerator.set_device_idx
        choose(device.index)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; does nothing for the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def current_stream(device: torch.device) -> torch.Stream:
    """Where what this thread gives an accelerator goes."""
    return torch.accelerator.current_stream(device)


@contextmanager
def on_stream(stream: torch.Stream) -> Iterator[None]:
    """Within this context what this thread gives an accelerator goes to this stream of it."""
    before = current_stream(stream.device)
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)


def device_name(device: torch.device) -> str:
    """What a person calls a device: the model of a GPU, else its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """The number format in which a device computes fastest: bf16 where it has matrix units for that, else fp32.

    Of processors these are the ones with AMX, and AMD's with AVX-512 instructions for bf16, of which they carry out as
    many per cycle as of those for fp32. Intel's without AMX carry out half as many, which gains nothing.
    """
    if device.type == "cpu":
        return "bf16" if _processor_is_fast_in_bf16() else "fp32"
    module = torch.get_device_module(device)
    ask = getattr(module, "is_bf16_supported", None)
    if ask is None:
        return "fp32"
    is_native = ask(including_emulation=False) if device.type == "cuda" else ask()
    return "bf16" if is_native else "fp32"


def encoder_dtype(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """The number format in which an encoder predicts on a device; `auto` takes that of `fast_precision`."""
    chosen = fast_precision(device) if precision == "auto" else precision
    return torch.bfloat16 if chosen == "bf16" else torch.float32


def bound_caches() -> None:
    """Let oneDNN keep the code of fewer products than usual; before this process computes anything.

    It makes and keeps code of about a megabyte for each product of matrices in bf16 of a size that it has not met yet,
    by default of 1,024 of them. A training on texts of many lengths meets more. A value in the environment stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_MOST_PRODUCTS))


def _processor_is_fast_in_bf16() -> bool:
    """Whether the processor has what `fast_precision` names, and PyTorch has oneDNN, which uses it."""
    if not torch.backends.mkldnn.is_available():
        return False
    if _supports("_is_amx_tile_supported"):
        return True
    return _supports("_is_avx512_bf16_supported") and operating_system.processor_vendor() == "AuthenticAMD"


def _supports(question: str) -> bool:
    """What PyTorch answers about this processor; it has no public name for these questions."""
    ask = getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())


def peak_flops(device: torch.device) -> float | None:
    """Floating-point operations a second that a device can do at most on bf16 matrices; None where it is not known."""
    name = device_name(device)
    return next((peak for known, peak in _PEAK_FLOPS.items() if re.search(rf"\b{known}\b", name)), None)


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes of an accelerator's memory that this process's tensors take now, and the most that they took so far.

    The host waits for nothing. None for the CPU, and for devices that keep no count.
    """
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    if not hasattr(module, "max_memory_allocated"):
        return None
    return module.memory_allocated(device), module.max_memory_allocated(device)


def reduce_scatter(own: Tensor, parts: Tensor, group: dist.ProcessGroup | None) -> None:
    """Add up the `parts` [ranks * n, ...] of all ranks, and put this rank's n rows of the sum into `own` [n, ...]."""
    collective = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    collective(own, parts, group=group)


def use_deterministic_algorithms() -> None:
    """Let PyTorch take operations that give the same bits in every run; before an accelerator is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order
    torch.use_deterministic_algorithms(True)


def host_may_wait(tensor: Tensor) -> bool:
    """Whether reading a number of this tensor costs the host nothing: it is there already, in its own memory."""
    return tensor.device.type == "cpu"


def host_memory(tensor: Tensor) -> Tensor:
    """The numbers of a tensor in host memory: the tensor itself if it lies there, else a copy in pinned memory.

    Copies from a device to pinned memory are fast. Drop such a copy soon: the next one then takes its place.
    """
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
