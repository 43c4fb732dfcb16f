"""Dropout for training on CPUs.

PyTorch draws one number after another and stores a mask. Here a hash of an element's place decides whether it is kept,
so the loop is vectorised, and the backward pass computes the same decisions again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange, uint32
from torch import Tensor

from cxml.jit import cached_njit

Key = tuple[int, int]
"""Two integers from 0 to 2**32 - 1, which select the elements to drop."""

_CHUNK = 1 << 14  # elements of a thread's turn
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def random_keys(count: int) -> list[Key]:
    """Keys from PyTorch's global generator, so the run's seed determines them."""
    return [(first, second) for first, second in torch.randint(2**32, (count, 2)).tolist()]


def zero_some(values: Tensor, rate: float, key: Key) -> Tensor:
    """Set elements to zero at random, in place.

    Args:
        values: contiguous numbers of any shape.
        rate: probability of each element, below 1.
        key: the same key and number of elements select the same places.

    Returns:
        `values`.
    """
    integers = values.detach().view(-1).view(_INTEGERS[values.element_size()]).numpy()
    _zero_some(integers, np.uint32(key[0]), np.uint32(key[1]), np.uint32(rate * 2**32))
    return values


class Dropout(torch.autograd.Function):
    """`torch.nn.functional.dropout` in training: `Dropout.apply(values, rate)`, with a rate below 1."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float) -> Tensor:  # noqa: ANN401, D102 - PyTorch's form
        ctx.rate, (ctx.key,) = rate, random_keys(1)
        return _dropped(values, rate, ctx.key)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401, D102 - PyTorch's form
        return _dropped(gradients[0], ctx.rate, ctx.key), None


def _dropped(values: Tensor, rate: float, key: Key) -> Tensor:
    return zero_some(values.contiguous() / (1 - rate), rate, key)


@cached_njit(parallel=True, nogil=True)
def _zero_some(bits, first, second, threshold):
    for chunk in prange(-(-len(bits) // _CHUNK)):
        _zero_chunk(bits[chunk * _CHUNK : (chunk + 1) * _CHUNK], chunk * _CHUNK, first, second, threshold)


@njit
def _zero_chunk(bits, start, first, second, threshold):
    for i in range(len(bits)):
        # Products and sums widen to 64 bits, so each is narrowed again.
        mixed = uint32(uint32(uint32(start + i) * uint32(2654435761)) + first)
        mixed = uint32(uint32(mixed ^ (mixed >> uint32(15))) * uint32(2246822519))
        mixed = uint32(mixed ^ second)
        mixed = uint32(uint32(mixed ^ (mixed >> uint32(13))) * uint32(3266489917))
        mixed = uint32(mixed ^ (mixed >> uint32(16)))
        bits[i] = bits[i] if mixed >= threshold else 0
