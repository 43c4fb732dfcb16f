"""The encoder's layers compiled by `torch.compile`, for training.

The compiler sees one layer, which all layers of an encoder share but for their weights, so it works once for each
padded length, not for each layer. Names of parameters stay.
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
"""They rename arguments of earlier versions, and recompute activations, for which there are `contexts` here."""


def compile_layers(layers: Iterable[nn.Module], device: torch.device, *, contexts: Contexts | None = None) -> None:
    """Let layers compute by compiled code while they train; in prediction they go on as they are.

    Args:
        layers: each takes and gives states [B, T, D]. B may be any, T is expected to be one of few.
        device: where they compute.
        contexts: keep no activations inside a layer, whose backward pass computes them again; the contexts of both
            passes, see `torch.utils.checkpoint`. None keeps them.

    Raises:
        ConfigError: no compiler works for this device.
    """
    require_compiler(device)
    for layer in layers:
        for module in layer.modules():
            if module is not layer and module.forward != (bare := _bare_forward(module)):
                module.forward = bare
        layer.forward = _compiled_in_training(layer, contexts)


def require_compiler(device: torch.device) -> None:
    """Refuse to go on where a very small function cannot be compiled.

    Raises:
        ConfigError: it cannot.
    """
    size = 2 + time.time_ns() % 1_000_000  # one that no cache holds code for
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
    """A module's forward pass without the wrappers of transformers that the compiler cannot look through."""
    function: Any = type(module).forward
    while hasattr(function, "__wrapped__") and function.__code__.co_filename.endswith(_OPAQUE):
        function = function.__wrapped__
    return types.MethodType(function, module)
