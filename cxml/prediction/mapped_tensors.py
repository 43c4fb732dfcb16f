"""Tensors of a safetensors file as numpy arrays that lie in the file: mapped, not read, where it is local."""

from __future__ import annotations

import json

import numpy as np

from cxml import storage
from cxml.errors import DataError

# bfloat16 has no dtype of numpy's; its bits go by uint16.
_DTYPES = {"F32": np.float32, "BF16": np.uint16, "I8": np.int8}
_LARGEST_HEADER = 100 << 20


def read_tensors(file: str, remedy: str) -> dict[str, np.ndarray]:
    """The tensors of a file by name. What is written to them changes memory only, never the file.

    Raises:
        DataError: the file is no safetensors file of float32, bfloat16 and int8, or is cut off.
    """
    path = storage.local_path(file)
    content = (
        np.frombuffer(bytearray(storage.read_bytes(file)), np.uint8)
        if path is None
        else np.asarray(np.memmap(path, np.uint8, mode="c"))
    )
    try:
        length = int.from_bytes(content[:8].tobytes(), "little")
        if not 0 < length <= min(_LARGEST_HEADER, len(content) - 8):
            raise DataError(file, "its header is cut off", remedy)
        header = json.loads(content[8 : 8 + length].tobytes())
        return {
            name: _view(content[8 + length :], entry) for name, entry in header.items() if name != "__metadata__"
        }  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(file, f"is no safetensors file that can be mapped ({error})", remedy) from error


def _view(data: np.ndarray, entry: dict) -> np.ndarray:
    start, stop = entry["data_offsets"]
    return data[start:stop].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
