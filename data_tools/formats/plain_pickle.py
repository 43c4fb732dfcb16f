"""Lists of integer arrays out of pickled files, without running anything that a file asks for.

A pickle is a program. This reader knows lists, tuples, numbers and NumPy's arrays of integers, and makes the latter
from the bytes itself: no function or class of NumPy's is called on the file's behalf. Anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from cxml.errors import DataError

_REMEDY = "Save lists of lists or NumPy arrays of integers, with pickle protocol 4."
_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def load_plain(content: bytes, file: str) -> Any:  # noqa: ANN401 - lists of lists of what the file holds
    """The object in a pickle of lists, tuples, integers and NumPy arrays of integers (arrays of objects become lists).

    Raises:
        DataError: the file asks for anything else, or is no pickle.
    """
    try:
        return _plain(_Reader(io.BytesIO(content)).load())
    except DataError:
        raise
    except Exception as error:  # whatever a broken or hostile file leads to
        raise DataError(file, f"cannot be read as plain lists and arrays ({error})", _REMEDY) from error


class _Type:
    """Stands for a NumPy dtype."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in (*_INTEGERS, "O8"):
            raise pickle.UnpicklingError(f"values of type {code!r} are no integers")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in "<>" else "="

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for a NumPy array until it is whole."""

    def __init__(self) -> None:
        self.values: np.ndarray | list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        self.fill(content, kind, shape, "F" if is_fortran else "C")

    def fill(self, content: bytes | list[Any], kind: _Type, shape: tuple[int, ...], order: Any) -> None:  # noqa: ANN401
        if kind.code == "O8":
            if not isinstance(content, list) or len(shape) != 1 or len(content) != shape[0]:
                raise pickle.UnpicklingError("an array of objects is not a list of them")
            self.values = content
        else:
            flat = np.frombuffer(bytes(content), kind.dtype)
            if len(flat) != math.prod(shape):
                raise pickle.UnpicklingError("an array has not as many values as its shape says")
            self.values = flat.reshape(shape, order=order)


def _empty_array(*_: object) -> _Array:
    return _Array()


def _array_of_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.fill(content, kind, shape, order)
    return array


def _scalar(kind: _Type, content: bytes) -> int:
    return int(np.frombuffer(content, kind.dtype)[0])


class _ArrayType:
    """Stands for the class of NumPy's arrays, which files name but never call."""


_KNOWN = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Type,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return _KNOWN[module, name]

    def persistent_load(self, pid: object) -> Any:  # noqa: ANN401
        raise pickle.UnpicklingError(f"it refers to something outside: {pid!r}")


def _plain(value: Any) -> Any:  # noqa: ANN401
    """The value without stand-ins."""
    if isinstance(value, _Array):
        return value.values if isinstance(value.values, np.ndarray) else [_plain(item) for item in value.values]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, int):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
