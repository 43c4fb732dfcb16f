"""The k-th largest of many float32 keys: by partition, or by counting digits in parallel. Both agree bit for bit."""

# numba compiles these functions and mixes Python and numpy scalars, which pyright tells apart.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

_DIGIT_BITS = (11, 11, 10)


@njit(cache=True, nogil=True)
def kth_largest(keys: np.ndarray, rank: int, scratch: np.ndarray) -> np.float32:
    """The `rank`-th largest (1: the largest) of `keys` (no NaN), by quickselect; `scratch` is overwritten."""
    low, high = 0, len(keys)
    scratch[:high] = keys
    k = high - rank
    while True:
        a, b, c = scratch[low], scratch[(low + high) // 2], scratch[high - 1]
        pivot = max(min(a, b), min(max(a, b), c))
        less = low
        for i in range(low, high):  # no branch on the data: half of them would be mispredicted
            value = scratch[i]
            scratch[i] = scratch[less]
            scratch[less] = value
            less += value < pivot
        if k < less:
            high = less
            continue
        equal = less
        for i in range(less, high):
            value = scratch[i]
            scratch[i] = scratch[equal]
            scratch[equal] = value
            equal += value == pivot
        if k < equal:
            return pivot
        low = equal


@njit(cache=True, nogil=True)
def _in_order(bits: np.ndarray) -> np.int64:
    """The bits of a float32 as an integer in 0..2**32 that sorts as the float does."""
    return np.int64(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))) + (np.int64(1) << 31)


@njit(cache=True, nogil=True)
def _count_digits(
    bits: np.ndarray, start: int, stop: int, prefix: int, shift: int, width: int, counts: np.ndarray
) -> None:
    counts[:] = 0
    for i in range(start, stop):
        ordered = _in_order(bits[i])
        if ordered >> (shift + width) == prefix:
            counts[(ordered >> shift) & ((1 << width) - 1)] += 1


@njit(cache=True, nogil=True, parallel=True)
def kth_largest_by_digits(keys: np.ndarray, rank: int, chunks: int) -> np.float32:
    """The same as `kth_largest`, over `chunks` parts of `keys` in parallel, fixing the answer's digits from the top."""
    rows, bits = len(keys), keys.view(np.int32)
    counts = np.empty((chunks, 1 << max(_DIGIT_BITS)), np.int64)
    prefix, shift = np.int64(0), 32
    for width in _DIGIT_BITS:
        shift -= width
        for chunk in prange(chunks):
            start, stop = rows * chunk // chunks, rows * (chunk + 1) // chunks
            _count_digits(bits, start, stop, prefix, shift, width, counts[chunk])
        digit = (1 << width) - 1
        while counts[:, digit].sum() < rank:
            rank -= counts[:, digit].sum()
            digit -= 1
        prefix = (prefix << width) | digit
    answer = np.empty(1, np.int32)
    signed = np.int32(prefix - (np.int64(1) << 31))
    answer[0] = signed ^ ((signed >> 31) & np.int32(0x7FFFFFFF))
    return answer.view(np.float32)[0]
