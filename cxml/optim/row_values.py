"""Read and write stored rows in compiled loops: the number formats, and the arrays.

`cxml.optim.row_formats` describes the formats. A function that depends on the format is selected by an array's type
when numba compiles its caller, so loops need no branch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint32
from numba.extending import overload

from cxml.optim.row_formats import NEAREST_BF16

_LEAST_NORMAL = np.float32(2**-6)  # of e4m3


class RowArrays(NamedTuple):
    """The arrays of a `cxml.optim.row_adamw.RowState`, in the form of the compiled loops."""

    weight: np.ndarray
    bias: np.ndarray
    moment: np.ndarray
    second: np.ndarray
    bias_moments: np.ndarray
    last_step: np.ndarray
    updates: np.ndarray
    compensation: np.ndarray
    scale: np.ndarray


def to_float(stored):
    """A stored weight as float32: unchanged, the bits of a bfloat16 in the upper half, or e4m3 without its scale."""
    raise AssertionError("only compiled code calls this")


@overload(to_float)
def _to_float_overload(stored):
    if str(stored) == "uint8":
        return lambda stored: _value_of_fp8(stored)  # noqa: PLW0108 - numba does not accept a compiled function here
    if str(stored) == "uint16":
        # The shift widens to 64 bits, so its result is narrowed again.
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@njit
def _value_of_fp8(bits):
    """See `cxml.optim.row_formats`; moves the exponent, except for subnormal numbers, which have none."""
    size = np.uint32(bits & np.uint8(0x7F))
    normal = np.uint32((size << np.uint32(20)) + np.uint32(120 << 23)).view(np.float32)
    value = normal if size >= np.uint32(8) else np.float32(np.int32(size)) * np.float32(2**-9)
    return -value if bits & np.uint8(0x80) else value


@njit
def _fp8_of(value, noise):
    """`cxml.optim.row_formats.to_fp8` of one scaled number; `noise` has at least 20 random bits."""
    size = abs(np.float32(value))
    is_small = size < _LEAST_NORMAL
    rounded = size + _LEAST_NORMAL if is_small else size
    code = uint32(uint32(np.float32(rounded).view(np.uint32) + uint32(noise & uint32(0xFFFFF))) >> uint32(20))
    sign = uint32(uint32(np.float32(value).view(np.uint32) >> uint32(24)) & uint32(0x80))
    return np.uint8(uint32(code - uint32(968 if is_small else 960)) | sign)


@njit
def _exponent_of_scale(values):
    """The float32 exponent of the scale that `cxml.optim.row_formats.to_fp8` computes for a row."""
    largest = np.float32(0)
    for d in range(len(values)):
        largest = max(largest, abs(values[d]))
    return max((np.int32(np.float32(largest).view(np.int32)) - 1) >> 23, 27) - 7


def scale_of(weight, scale, r):
    """The scale of a row's values."""
    raise AssertionError("only compiled code calls this")


@overload(scale_of)
def _scale_of_overload(weight, scale, r):
    if str(weight.dtype) == "uint8":
        return lambda weight, scale, r: scale[r]
    return lambda weight, scale, r: np.float32(1)


def _stored(like, value, noise):
    raise AssertionError("only compiled code calls this")


@overload(_stored)
def _stored_overload(like, value, noise):
    """A float32 in the stored format: unchanged, or rounded stochastically to bfloat16 (`noise`: 16 random bits)."""
    if str(like) == "uint16":
        return lambda like, value, noise: np.uint16(
            np.uint32(np.float32(value).view(np.uint32) + np.uint32(noise & 0xFFFF)) >> np.uint32(16)
        )
    return lambda like, value, noise: np.float32(value)


@njit
def noise_of(step, row, column):
    """32 pseudo-random bits from step, row and column only, so runs are reproducible."""
    # Products widen to 64 bits, so each is narrowed again.
    mixed = uint32(
        uint32(row) * uint32(2654435761) ^ uint32(column) * uint32(2246822519) ^ uint32(step) * uint32(3266489917)
    )
    mixed = uint32(uint32(mixed ^ (mixed >> uint32(15))) * uint32(2246822519))
    mixed = uint32(uint32(mixed ^ (mixed >> uint32(13))) * uint32(3266489917))
    return uint32(mixed ^ (mixed >> uint32(16)))


def load(weight, compensation, r, d):
    """A weight as float32, with its compensation if stored; the array types select the code, without a branch."""
    raise AssertionError("only compiled code calls this")


@overload(load)
def _load_overload(weight, compensation, r, d):
    if str(compensation.dtype) == "uint16":
        return lambda weight, compensation, r, d: to_float(weight[r, d]) + to_float(compensation[r, d])
    return lambda weight, compensation, r, d: to_float(weight[r, d])


def store(weight, compensation, scale, r, values, step, row_id):
    """Write a row of float32, rounded to the format of the arrays."""
    raise AssertionError("only compiled code calls this")


@overload(store)
def _store_overload(weight, compensation, scale, r, values, step, row_id):
    def rounded_at_random(weight, compensation, scale, r, values, step, row_id):
        for d in range(len(values)):
            weight[r, d] = _stored(weight[r, d], values[d], noise_of(step, row_id, d))

    def rounded_to_nearest(weight, compensation, scale, r, values, step, row_id):
        for d in range(len(values)):
            weight[r, d] = _stored(weight[r, d], values[d], NEAREST_BF16)
            compensation[r, d] = _stored(compensation[r, d], values[d] - to_float(weight[r, d]), NEAREST_BF16)

    def scaled(weight, compensation, scale, r, values, step, row_id):
        exponent = _exponent_of_scale(values)
        scale[r] = np.int32(exponent << 23).view(np.float32)
        inverse = np.int32((254 - exponent) << 23).view(np.float32)
        for d in range(len(values)):
            weight[r, d] = _fp8_of(values[d] * inverse, noise_of(step, row_id, d))

    if str(weight.dtype) == "uint8":
        return scaled
    return rounded_to_nearest if str(compensation.dtype) == "uint16" else rounded_at_random
