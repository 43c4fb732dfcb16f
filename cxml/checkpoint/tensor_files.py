"""Tensors of safetensors files from elsewhere."""

from __future__ import annotations

import safetensors
import safetensors.torch
from torch import Tensor, nn

from cxml.checkpoint.finite import is_finite
from cxml.errors import DataError


def parse_tensors(content: bytes, file: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; floating-point ones hold finite numbers only.

    Raises:
        DataError: it is not such a file, or a number is NaN or infinite.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(file, f"is not a safetensors file ({str(error)[:200]})", remedy) from error
    for name, tensor in tensors.items():
        check_finite(tensor, name, file, remedy)
    return tensors


def load_weights(model: nn.Module, weights: dict[str, Tensor], file: str, remedy: str) -> None:
    """Fill the parameters of a model, but for its label rows, and take over the weights' number format.

    Raises:
        DataError: a weight is missing or has another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise DataError(file, f"{name} is {found}, not of the shape {tuple(parameter.shape)}", remedy)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)  # buffers come from the tree


def check_finite(tensor: Tensor, name: str, file: str, remedy: str) -> None:
    """Raise `DataError` if a number of a tensor is NaN or infinite; uint16 holds the bits of bfloat16."""
    if not is_finite(tensor):
        raise DataError(file, f"{name[:200]} holds numbers that are NaN or infinite", remedy)
