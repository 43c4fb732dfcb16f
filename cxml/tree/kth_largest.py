"""The k-th largest of many float32 keys."""

# numba compiles these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np

from cxml.jit import cached_njit


@cached_njit(nogil=True)
def kth_largest(keys: np.ndarray, rank: int, scratch: np.ndarray) -> np.float32:
    """The `rank`-th largest (1: the largest) of `keys` (no NaN), by quickselect; `scratch` is overwritten."""
    low, high = 0, len(keys)
    scratch[:high] = keys
    k = high - rank
    while True:
        a, b, c = scratch[low], scratch[(low + high) // 2], scratch[high - 1]
        pivot = max(min(a, b), min(max(a, b), c))
        less = low
        for i in range(low, high):  # branchless, as half of the branches would be mispredicted
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


def ordered_bits(keys: np.ndarray) -> np.ndarray:
    """Order-preserving unsigned integers, uint32 [n], of `keys`, float32 [n] without NaN."""
    bits = (keys + np.float32(0)).view(np.uint32)  # -0 becomes 0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def key_of_bits(bits: int) -> np.float32:
    """The inverse of `ordered_bits`."""
    plain = bits & 0x7FFFFFFF if bits >> 31 else ~bits & 0xFFFFFFFF
    return np.uint32(plain).view(np.float32)
