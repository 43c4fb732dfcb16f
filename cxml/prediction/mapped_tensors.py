"""Tensors of a safetensors file as numpy views of its bytes, such as those of a mapped file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from cxml import artefacts
from cxml.errors import DataError
from cxml.optim.row_formats import has_finite_fp8

# NumPy has no bfloat16 and e4m3; their bits are stored as uint16 and uint8.
_DTYPES = {"F32": np.float32, "BF16": np.uint16, "F8_E4M3": np.uint8, "I8": np.int8}
_LARGEST_HEADER = 1 << 20
_BLOCK = 1 << 22


def view_tensors(content: np.ndarray, file: str, remedy: str) -> dict[str, np.ndarray]:
    """The tensors by name, as views of the file's bytes `content`, uint8 [n].

    Raises:
        DataError: it is not a safetensors file of float32, bfloat16, e4m3 and int8 whose tensors fill it without gaps.
    """
    length = int.from_bytes(content[:8].tobytes(), "little")
    if not 0 < length <= min(_LARGEST_HEADER, len(content) - 8) or length % 8:
        raise DataError(file, "its header is truncated or has an invalid length", remedy)
    header = artefacts.parse_object(content[8 : 8 + length].tobytes(), file, remedy)
    header.pop("__metadata__", None)
    data = content[8 + length :]
    tensors, bounds = {}, {0, len(data)}
    for name, entry in header.items():
        if not isinstance(entry, dict) or not _is_possible(entry, len(data)):
            raise DataError(file, f"its tensor {name[:80]!r} is invalid", remedy)
        start, stop = entry["data_offsets"]
        tensors[name] = data[start:stop].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        bounds ^= {start, stop}  # each end is the start of another tensor, except for the first and the last
    if bounds:
        raise DataError(file, "its tensors do not cover the file", remedy)
    return tensors


def are_finite(values: np.ndarray) -> bool:
    """Whether all values are finite: float32, bfloat16 as uint16 or e4m3 as uint8; int8 always is."""
    if values.dtype == np.int8:
        return True
    flat = values.reshape(-1)
    return all(_block_is_finite(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK))


def _block_is_finite(block: np.ndarray) -> bool:
    if block.dtype == np.uint8:
        return has_finite_fp8(block)
    if block.dtype == np.uint16:  # an exponent of ones only
        return not ((block & 0x7F80) == 0x7F80).any()
    return bool(np.isfinite(block).all())


def _is_possible(entry: Mapping[str, Any], size: int) -> bool:
    offsets, shape, dtype = entry.get("data_offsets"), entry.get("shape"), entry.get("dtype")
    if entry.keys() != {"data_offsets", "shape", "dtype"} or not _are_counts(offsets) or not _are_counts(shape):
        return False
    if not isinstance(dtype, str) or dtype not in _DTYPES or len(offsets) != 2 or not offsets[0] < offsets[1] <= size:
        return False
    item_bytes = np.dtype(_DTYPES[dtype]).itemsize
    return offsets[1] - offsets[0] == math.prod(shape) * item_bytes and offsets[0] % item_bytes == 0


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(isinstance(value, int) and value >= 0 for value in values)
