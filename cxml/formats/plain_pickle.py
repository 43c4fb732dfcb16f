"""Read lists of integer arrays from untrusted pickle files, without executing their code.

A pickle is a program for a stack machine. This reader implements only the instructions for lists, tuples, integers and
NumPy arrays of integers, and builds arrays from their bytes itself. It never calls functions or classes named in the
file, and rejects all other instructions. Memory and time are proportional to the file's size.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cxml.errors import DataError

_REMEDY = "Save lists of lists or NumPy arrays of integers, with pickle protocol 4."
_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_MOST_DIMENSIONS = 64  # NumPy's own limit
_MOST_ARGUMENTS = 4  # what any of `_KNOWN` looks at


def load_plain(content: bytes, file: str) -> Any:  # noqa: ANN401 - lists of lists of what the file holds
    """The object in a pickle of lists, tuples, integers and NumPy arrays of integers (arrays of objects become lists).

    Raises:
        DataError: the file contains anything else, is not a pickle, or repeats its parts beyond its own size.
    """
    try:
        return _Unfolding(len(content)).plain(_Machine().run(content))
    except Exception as error:  # broken and hostile files cause any kind of error
        raise DataError(file, f"cannot be read as plain lists and arrays ({error})", _REMEDY) from error


class _Type:
    """A NumPy dtype."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in (*_INTEGERS, "O8"):
            raise ValueError(f"values of type {code!r} are not integers")
        self.code, self.order = code, "="

    def set_state(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """A NumPy array, empty until its state is set."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | list[Any] = []

    def set_state(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        self.fill(content, kind, shape, "F" if is_fortran else "C")

    def fill(self, content: object, kind: _Type, shape: tuple[int, ...], order: Any) -> None:  # noqa: ANN401
        if kind.code == "O8":
            if not isinstance(content, list) or shape != (len(content),):
                raise ValueError("an array of objects is not a list of them")
            self.values = content
            return
        if not isinstance(content, (bytes, bytearray)) or len(shape) > _MOST_DIMENSIONS:
            raise ValueError("an array is not made of bytes")
        flat = np.frombuffer(content, kind.dtype) if content else np.zeros(0, kind.dtype)
        if not all(0 <= size <= len(flat) for size in shape) or math.prod(shape) != len(flat):
            raise ValueError("the size of an array does not match its shape")
        self.values = flat.reshape(shape, order=order)


def _array_of_buffer(content: object, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.fill(content, kind, shape, order)
    return array


def _scalar(kind: _Type, content: bytes) -> int:
    return int(np.frombuffer(content, kind.dtype)[0])


_KNOWN = {
    "numpy ndarray": None,  # named by files, never called
    "numpy dtype": _Type,
    **{f"numpy.{core}.multiarray _reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _array_of_buffer for core in ("core", "_core")},
}
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_PUSH = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
         "BYTEARRAY8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}  # fmt: skip
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME", "STOP"}


class _Known:
    """The name of something in `_KNOWN`."""

    def __init__(self, name: str) -> None:
        if name not in _KNOWN:
            raise ValueError(f"it calls {name.replace(' ', '.')}, which is not allowed")
        self.make: Any = _KNOWN[name]


class _Machine:
    """Interprets a pickle. Every step takes constant time, or time proportional to the popped stack entries."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}  # not a list, because a file may use any index
        self._actions: dict[str, Callable[[], None]] = {
            "TUPLE": lambda: self._stack.append(tuple(self._pop_to_mark())),
            "LIST": lambda: self._stack.append(self._pop_to_mark()),
            "EMPTY_LIST": lambda: self._stack.append([]),
            "APPEND": lambda: self._extend([self._stack.pop()]),
            "APPENDS": lambda: self._extend(self._pop_to_mark()),
            "STACK_GLOBAL": self._look_up,
            "REDUCE": self._make,
            "BUILD": self._set_state,
        }

    def run(self, content: bytes) -> Any:  # noqa: ANN401
        for opcode, argument, _ in pickletools.genops(content):
            self._step(opcode, argument)
        (value,) = self._stack
        return value

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:  # noqa: ANN401
        name, stack = opcode.name, self._stack
        if name in _PUSH:
            stack.append(argument)
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name in _PUT:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(reversed([stack.pop() for _ in range(_TUPLES[name])])))
        elif name == "GLOBAL":
            stack.append(_Known(argument))
        elif name in self._actions:
            self._actions[name]()
        elif name not in _NOTHING:
            raise ValueError(f"it holds a {opcode.stack_after[0].name if opcode.stack_after else name}")

    def _pop_to_mark(self) -> list[Any]:
        items = list(iter(self._stack.pop, _MARK))
        return items[::-1]

    def _extend(self, items: list[Any]) -> None:
        _require(self._stack[-1], list).extend(items)

    def _look_up(self) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self._stack.append(_Known(f"{module} {attribute}"))

    def _make(self) -> None:
        arguments = _require(self._stack.pop(), tuple)[:_MOST_ARGUMENTS]
        self._stack.append(_require(self._stack.pop(), _Known).make(*arguments))

    def _set_state(self) -> None:
        state = _require(self._stack.pop(), tuple)
        _require(self._stack[-1], (_Array, _Type)).set_state(state)


def _require(value: Any, kind: type | tuple[type, ...]) -> Any:  # noqa: ANN401
    if not isinstance(value, kind):
        raise ValueError(f"it contains an unexpected instruction on a {type(value).__name__}")  # noqa: TRY004
    return value


class _Unfolding:
    """Expands references to plain lists.

    A list can be referenced a thousand times by another one, which is referenced by a third one, and so on. Regular
    files have at least a byte per value, so `budget`, the size of the file, limits the number of values.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget

    def plain(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, _Array):
            value = value.values
        self._left -= max(1, value.size) if isinstance(value, np.ndarray) else 1
        if self._left < 0:
            raise ValueError("it repeats its parts beyond its own size")
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, (list, tuple)):
            return list(self._all(value))
        if type(value) is int and -(2**63) <= value < 2**63:
            return value
        raise ValueError(f"it holds a {type(value).__name__}" + " of more than 64 bits" * isinstance(value, int))

    def _all(self, values: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
        return map(self.plain, values)
