"""The k-th largest of many float32 keys."""

# numba compiles these functions and mixes Python and numpy scalars, which pyright tells apart.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np
from numba import njit


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
