"""Compile the encoder's layers with `torch.compile` for training.

All layers of an encoder share the same code, so the compiler runs once per padded length, not per layer. Parameter
names do not change.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cxml.errors import ConfigError
from cxml.internals.torch import compile_for_any_batch

Contexts = Callable[[], tuple[AbstractContextManager[object], AbstractContextManager[object]]]
_OPAQUE = ("transformers/utils/deprecation.py", "transformers/modeling_layers.py")
"""They rename arguments of earlier versions, and recompute activations, which `contexts` does here."""


def compile_layers(layers: Iterable[nn.Module], device: torch.device, *, contexts: Contexts | None = None) -> None:
    """Use compiled code for layers in training; prediction does not change.

    Args:
        layers: layers from states [B, T, D] to states. B may vary, T should have few different values.
        device: device of the layers.
        contexts: recompute activations inside a layer in its backward pass, within the contexts of both passes, see
            `torch.utils.checkpoint`. None keeps activations.

    Raises:
        ConfigError: the compiler does not work for this device.
    """
    require_compiler(device)
    for layer in layers:
        for module in layer.modules():
            if module is not layer and module.forward != (bare := _bare_forward(module)):
                module.forward = bare
        layer.forward = _compiled_in_training(layer, contexts)


def require_compiler(device: torch.device) -> None:
    """Check that the compiler works, with a small function.

    Raises:
        ConfigError: the compilation failed.
    """
    size = 2 + time.time_ns() % 1_000_000  # random, so that no cache contains its code
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(size, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        *_, reason = str(error).strip().splitlines() or [type(error).__name__]
        needed = "a C++ compiler, such as g++" if device.type == "cpu" else "Triton and a C compiler, such as gcc"
        raise ConfigError(
            "train.compile", True, f"torch.compile fails on this machine ({reason})",
            f"Install {needed}, or set train.compile to false.",
        ) from error  # fmt: skip


def _compiled_in_training(layer: nn.Module, contexts: Contexts | None) -> Callable[..., Any]:
    plain = layer.forward
    compiled = torch.compile(_bare_forward(layer))
    run = compiled
    if contexts is not None:
        run = functools.partial(checkpoint, compiled, use_reentrant=False, context_fn=contexts)

    @functools.wraps(plain)
    def forward(*inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - the layer's own
        if not layer.training:
            return plain(*inputs, **options)
        for given in (*inputs, *options.values()):
            if isinstance(given, Tensor):
                compile_for_any_batch(given)
        return run(*inputs, **options)

    return forward


def _bare_forward(module: nn.Module) -> Callable[..., Any]:
    """A module's forward pass without the wrappers of transformers that the compiler does not support."""
    function: Any = type(module).forward
    while hasattr(function, "__wrapped__") and function.__code__.co_filename.endswith(_OPAQUE):
        function = function.__wrapped__
    return types.MethodType(function, module)
