"""Tensors as safetensors files: writing, and reading untrusted files.

Tensors with an infinite or NaN value are neither saved nor loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cxml.errors import DataError, DivergenceError
from cxml.optim.row_formats import has_finite_fp8

_TYPES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.uint32: "U32",
    torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The format's names of dtypes, in the order in which the library sorts tensors."""
_PLACES = {dtype: place for place, dtype in enumerate(_TYPES)}


def tensor_file(tensors: Mapping[str, Tensor]) -> memoryview:
    """A safetensors file of contiguous tensors in host memory, byte-identical to `safetensors.torch.save`.

    The library holds the GIL while it copies the tensors twice, which delayed training steps during a save.
    """
    names = sorted(tensors, key=lambda name: (_PLACES[tensors[name].dtype], name))
    ends = np.cumsum([tensors[name].nbytes for name in names]).tolist()
    header = {
        name: {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [end - tensors[name].nbytes, end],
        }
        for name, end in zip(names, ends, strict=True)
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    content = np.empty(8 + len(text) + (ends[-1] if ends else 0), np.uint8)
    start = content[: 8 + len(text)]
    start[:] = np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    data = torch.from_numpy(content)[len(start) :]
    for name, end in zip(names, ends, strict=True):
        tensor = tensors[name]
        flat = tensor.as_strided((tensor.numel(),), (1,))  # a tensor of one number may have any stride
        data[end - tensor.nbytes : end].copy_(flat.view(torch.uint8))
    return content.data


def parse_tensors(content: bytes, file: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Floating-point tensors must be finite.

    Raises:
        DataError: it is not a safetensors file, or a value is NaN or infinite.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(file, f"is not a safetensors file ({str(error)[:200]})", remedy) from error
    for name, tensor in tensors.items():
        check_finite(tensor, name, file, remedy)
    return tensors


def load_weights(model: nn.Module, weights: dict[str, Tensor], file: str, remedy: str) -> None:
    """Load the parameters of a model except its label rows, in the number format of the weights.

    Raises:
        DataError: a weight is missing or has another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise DataError(file, f"{name} is {found}, expected the shape {tuple(parameter.shape)}", remedy)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)  # buffers are set from the tree


def check_finite(tensor: Tensor, name: str, file: str, remedy: str) -> None:
    """Raise `DataError` if a value of a tensor is NaN or infinite; uint16 holds the bits of bfloat16."""
    if not is_finite(tensor):
        raise DataError(file, f"{name[:200]} contains values that are NaN or infinite", remedy)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values of a tensor are finite; uint16 holds the bits of bfloat16, other integers are finite."""
    if tensor.dtype == torch.float8_e4m3fn:  # torch does not support comparisons
        return has_finite_fp8(tensor.view(torch.uint8).numpy())
    values = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
    # Minimum and maximum are NaN if any value is; unlike isfinite they need no memory.
    return not (
        values.is_floating_point() and values.numel() and not torch.stack(torch.aminmax(values)).isfinite().all()
    )


def require_finite(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check tensors by name before they are saved.

    Raises:
        DivergenceError: a value is not finite; names the first such tensor.
    """
    for name, tensor in named:
        if not is_finite(tensor):
            raise DivergenceError(
                f"{name} contains values that are not finite, so it is not saved. The last update was too large: lower "
                "optim.encoder_lr, optim.classifier_lr and, if set, head.learning_rate, and train again."
            )
