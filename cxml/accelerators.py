"""Wrappers of torch's accelerator functions, which were renamed between 2.6 and 2.13."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from cxml import operating_system

_MOST_PRODUCTS = 256  # enough for ten batch sizes, forward and backward
_PEAK_FLOPS = {  # of dense bf16 products with fp32 sums, from the vendors' data sheets; the first match is used
    "B200": 2250e12, "GH200": 990e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "A100": 312e12, "A30": 165e12, "A10": 125e12, "L40S": 362e12, "L4": 121e12, "MI300X": 1307e12,
}  # fmt: skip


def accelerator_type() -> str | None:
    """The type of this machine's accelerators, such as "cuda"; None without a working one.

    Apple's "mps" is not supported, because torch.distributed has no collectives for it.
    """
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "mps" else found.type


def device_of(local_rank: int) -> torch.device:
    """The device of the process with this local rank."""
    kind = accelerator_type()
    return torch.device("cpu") if kind is None else torch.device(kind, local_rank)


def current_device() -> torch.device:
    """The accelerator that this process uses, or the CPU."""
    kind = accelerator_type()
    if kind is None:
        return torch.device("cpu")
    index = getattr(torch.accelerator, "current_device_index", None) or torch.accelerator.current_device_idx
    return torch.device(kind, index())


def use_device(device: torch.device) -> None:
    """Set this process's accelerator; does nothing for the CPU."""
    if device.type != "cpu":
        choose = getattr(torch.accelerator, "set_device_index", None) or torch.accelerator.set_device_idx
        choose(device.index)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has completed its work; does nothing for the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def current_stream(device: torch.device) -> torch.Stream:
    """The current stream of this thread on an accelerator."""
    return torch.accelerator.current_stream(device)


@contextmanager
def on_stream(stream: torch.Stream) -> Iterator[None]:
    """Within this context, this thread's work on an accelerator goes to `stream`."""
    before = current_stream(stream.device)
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)


def device_name(device: torch.device) -> str:
    """The display name of a device: the model of a GPU, else its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """The fastest number format of a device: bf16 if it has matrix units for it, else fp32.

    CPUs with fast bf16 are those with AMX, and AMD's with AVX-512 BF16, which execute as many of these instructions per
    cycle as of those for fp32. Intel CPUs without AMX execute half as many, so bf16 is not faster.
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
    """The number format of an encoder's prediction on a device; `auto` uses `fast_precision`."""
    chosen = fast_precision(device) if precision == "auto" else precision
    return torch.bfloat16 if chosen == "bf16" else torch.float32


def sums_int8_exactly() -> bool:
    """Whether the CPU adds products of int8 numbers without overflow.

    x86 CPUs without VNNI add pairs of products of 8-bit numbers in 16 bits, where numbers of 7 bits are safe.
    """
    return platform.machine().lower() not in ("x86_64", "amd64") or _supports("_is_vnni_supported")


def bound_caches() -> None:
    """Reduce oneDNN's cache of compiled products. Call it before this process computes anything.

    oneDNN compiles and caches about a megabyte of code for each new size of a bf16 matrix product, 1,024 of them by
    default. Training on texts of many lengths would fill the cache. A value in the environment is kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_MOST_PRODUCTS))


def _processor_is_fast_in_bf16() -> bool:
    """Whether the CPU has the instructions of `fast_precision`, and PyTorch has oneDNN, which uses them."""
    if not torch.backends.mkldnn.is_available():
        return False
    if _supports("_is_amx_tile_supported"):
        return True
    return _supports("_is_avx512_bf16_supported") and operating_system.processor_vendor() == "AuthenticAMD"


def _supports(question: str) -> bool:
    """Query a CPU feature from PyTorch, which has no public API for it."""
    ask = getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())


def peak_flops(device: torch.device) -> float | None:
    """Peak floating-point operations per second of a device on bf16 matrices; None if unknown."""
    name = device_name(device)
    return next((peak for known, peak in _PEAK_FLOPS.items() if re.search(rf"\b{known}\b", name)), None)


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes of accelerator memory of this process's tensors, now and at the peak, without synchronisation.

    None for the CPU, and for devices without such counters.
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
    """Make PyTorch use deterministic operations. Call it before the first use of an accelerator."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order
    torch.use_deterministic_algorithms(True)


def host_may_wait(tensor: Tensor) -> bool:
    """Whether the host can read this tensor without waiting, because it is in host memory."""
    return tensor.device.type == "cpu"


def host_memory(tensor: Tensor) -> Tensor:
    """A tensor in host memory: the tensor itself, or a copy in pinned memory.

    Copies to pinned memory are fast. Release such a copy soon, so that the next one can reuse its memory.
    """
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
