"""Compiled loops of AdamW over bf16 weights on the CPU, with one pass over a weight instead of five.

A bf16 gradient is read in place, the fp32 copy of the weight and its moments are updated, and the weight is rounded
from the copy. Sums are computed per chunk and added in order, so the result does not depend on the number of threads.
Small tensors, of which a model has many, use one thread, because starting others would take longer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from cxml.jit import FAST_MATH, cached_njit

_CHUNK = 1 << 16  # work of a thread, in weights
_BLOCK = 1 << 10  # stays in the cache of a core while it is gone through several times
_SMALL = 1 << 18  # weights that one thread does by itself


class Hyperparameters(NamedTuple):
    """What a step of AdamW depends on besides gradients and moments; all of them float32.

    Attributes:
        scale: what to multiply gradients by.
        new: 1 minus beta1.
        new_second: 1 minus beta2.
        kept: what decay leaves of a weight.
        step_size: with bias correction.
        root: of the second moment's bias correction.
        epsilon: AdamW's.
    """

    scale: np.float32
    new: np.float32
    new_second: np.float32
    kept: np.float32
    step_size: np.float32
    root: np.float32
    epsilon: np.float32


@njit(fastmath=FAST_MATH)
def _widen(stored, floats):
    """Fill float32 (its bits as uint32) from bfloat16 (its bits as uint16)."""
    for i in range(len(stored)):
        floats[i] = np.uint32(stored[i]) << np.uint32(16)


def squares_of(gradient):
    """The sum of the squares of bfloat16 hyperparameters, uint16 [n]; a float64."""
    sums = np.zeros(_num_chunks(gradient))
    (_fill_squares_alone if len(gradient) <= _SMALL else _fill_squares)(gradient, sums)
    return sums.sum()


@cached_njit(parallel=True, fastmath=FAST_MATH, nogil=True)
def _fill_squares(gradient, sums):
    for chunk in prange(len(sums)):
        sums[chunk] = _squares_of_chunk(gradient, chunk)


@cached_njit(fastmath=FAST_MATH, nogil=True)
def _fill_squares_alone(gradient, sums):
    for chunk in range(len(sums)):
        sums[chunk] = _squares_of_chunk(gradient, chunk)


@njit(fastmath=FAST_MATH)
def _squares_of_chunk(gradient, chunk):
    bits = np.empty(_BLOCK, np.uint32)
    values = bits.view(np.float32)
    of_chunk = 0.0
    for start in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(gradient)), _BLOCK):
        size = min(_BLOCK, len(gradient) - start)
        _widen(gradient[start : start + size], bits)
        total = np.float32(0)
        for i in range(size):
            total += values[i] * values[i]
        of_chunk += total
    return of_chunk


def update(weight, gradient, copy, moment, second, hyperparameters):
    """Take a step of AdamW with decoupled weight decay.

    Args:
        weight: uint16 [n], bfloat16; written.
        gradient: uint16 [n], bfloat16.
        copy: float32 [n], the weight as AdamW has it; changed, as are its moments.
        moment: float32 [n].
        second: float32 [n].
        hyperparameters: of the step.
    """
    take = _update_alone if len(weight) <= _SMALL else _update
    take(weight, gradient, copy, moment, second, hyperparameters, _num_chunks(weight))


def _num_chunks(array):
    return -(-len(array) // _CHUNK)


@cached_njit(parallel=True, fastmath=FAST_MATH, nogil=True)
def _update(weight, gradient, copy, moment, second, hyperparameters, num_chunks):
    for chunk in prange(num_chunks):
        _update_chunk(weight, gradient, copy, moment, second, hyperparameters, chunk)


@cached_njit(fastmath=FAST_MATH, nogil=True)
def _update_alone(weight, gradient, copy, moment, second, hyperparameters, num_chunks):
    for chunk in range(num_chunks):
        _update_chunk(weight, gradient, copy, moment, second, hyperparameters, chunk)


@njit(fastmath=FAST_MATH)
def _update_chunk(weight, gradient, copy, moment, second, hyperparameters, chunk):
    bits = np.empty(_BLOCK, np.uint32)
    values = bits.view(np.float32)
    for start in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(weight)), _BLOCK):
        stop = min(start + _BLOCK, len(weight))
        _widen(gradient[start:stop], bits)
        _adamw(
            values, copy[start:stop], moment[start:stop], second[start:stop], hyperparameters.scale,
            hyperparameters.new, hyperparameters.new_second, hyperparameters.kept, hyperparameters.step_size,
            hyperparameters.root, hyperparameters.epsilon,
        )  # fmt: skip
        _round(copy[start:stop], weight[start:stop])


@njit(fastmath=FAST_MATH, error_model="numpy")  # a check of the divisor would keep the loop from being vectorised
def _adamw(gradient, copy, moment, second, scale, new, new_second, kept, step_size, root, epsilon):
    for i in range(len(copy)):
        slope = gradient[i] * scale
        moment[i] += (slope - moment[i]) * new
        second[i] += (slope * slope - second[i]) * new_second
        copy[i] = copy[i] * kept - step_size * moment[i] / (np.sqrt(second[i]) / root + epsilon)


@njit
def _round(floats, stored):
    """Round finite float32 to bfloat16, to nearest, ties to even."""
    bits = floats.view(np.uint32)
    for i in range(len(stored)):
        odd = np.uint32(np.uint32(bits[i] >> np.uint32(16)) & np.uint32(1))  # sums and shifts widen to 64 bits
        stored[i] = np.uint16(np.uint32(bits[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16))
