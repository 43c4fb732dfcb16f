"""Private parts of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, distributed_c10d
from torch.distributed.checkpoint import state_dict_loader

SEEN_IN = "2.13.0"
NAMES = (
    "torch._foreach_norm",
    "torch._foreach_mul_",
    "torch._foreach_copy_",
    "torch._dynamo.maybe_mark_dynamic",
    "torch._dynamo.mark_static",
    "torch.UntypedStorage._cdata",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "torch.ops.aten._softmax_backward_data",
    "torch.nn.Module:_modules",
    "torch.distributed.distributed_c10d._world.pg_map",
    "torch.distributed.distributed_c10d._set_pg_timeout",
    "torch.distributed.checkpoint.state_dict_loader._load_state_dict",
)

_Module = TypeVar("_Module", bound=nn.Module)


def norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each of n tensors, [n]; one launch for all on an accelerator."""
    if not tensors:
        return torch.zeros(0)
    return torch.stack(torch._foreach_norm(tensors))  # pyright: ignore[reportPrivateImportUsage]


def scale_all(tensors: list[Tensor], factor: Tensor | float) -> None:
    """Multiply each tensor in place by a factor, a number or []; one launch for all on an accelerator."""
    if tensors:
        torch._foreach_mul_(tensors, factor)  # pyright: ignore[reportPrivateImportUsage]


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, which may have another dtype; one launch for all on an accelerator."""
    if targets:
        torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def compile_for_any_batch(states: Tensor) -> None:
    """Mark the first dimension as dynamic for `torch.compile`, and the others as static."""
    torch._dynamo.maybe_mark_dynamic(states, 0)
    for dimension in range(1, states.ndim):
        torch._dynamo.mark_static(states, dimension)


def storage_id(tensor: Tensor) -> int:
    """A number that identifies the memory of a tensor during its lifetime, also on the meta device."""
    return tensor.untyped_storage()._cdata


def flash_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with the fused CPU kernel, which stores no attention weights, regardless of torch's chosen backend."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]


def softmax_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """The gradient of a softmax's input from that of its output, over the last dimension, in the dtype of both."""
    return torch.ops.aten._softmax_backward_data(gradient, output, -1, output.dtype)


def with_modules(module: _Module, replaced: Mapping[str, nn.Module]) -> _Module:
    """A shallow copy of a module with these submodules replaced by name; the module itself does not change."""
    other = copy.copy(module)
    other._modules = {**module._modules, **replaced}
    return other


def state_with_modules(module: nn.Module, replaced: Mapping[str, nn.Module]) -> dict[str, object]:
    """The state of a module for pickles, with these submodules replaced by name."""
    return {**vars(module), "_modules": {**module._modules, **replaced}}


def process_groups() -> list[ProcessGroup]:
    """All process groups of this process, including those of other libraries."""
    return list(distributed_c10d._world.pg_map)


def set_timeout(group: ProcessGroup, timeout: timedelta) -> None:
    """Set the timeout of a group's collectives."""
    distributed_c10d._set_pg_timeout(timeout, group)


def load_state_dict() -> Callable[..., Any]:
    """`torch.distributed.checkpoint.load` of torch 2.6 and 2.7, with the argument `no_dist` of later versions."""
    return state_dict_loader._load_state_dict
