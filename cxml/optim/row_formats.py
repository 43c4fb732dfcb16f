"""The number formats of rows outside compiled kernels: storage and conversion of weights.

fp32   float32
bf16   bfloat16; NumPy has no such type and holds its bits as uint16
fp8    e4m3 (4 bits of exponent, 3 of mantissa) times a scale per row; NumPy and torch hold its bits as uint8

The scale of a row is the power of two for which its largest weight is above 128 and at most 256; the maximum of e4m3 is
448. Unchanged weights are therefore not rounded again, and stochastic rounding never overflows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST_FP8 = 448.0
NEAREST_BF16 = 0x8000
"""As noise of 16 bits, it rounds to nearest."""
NEAREST_FP8 = 0x80000
"""As noise of 20 bits, it rounds to nearest."""
_VALUES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()  # by bits


def to_float32(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Weights as float32 [n, D].

    Args:
        weight: float32 [n, D], uint16 [n, D] holding bfloat16, or uint8 [n, D] holding e4m3.
        scale: float32 [n] for e4m3; unused otherwise.
    """
    if weight.dtype == np.uint8:
        return _VALUES[weight] * scale[:, None]
    return (weight.astype(np.uint32) << 16).view(np.float32) if weight.dtype == np.uint16 else weight


def has_finite_fp8(bits: np.ndarray) -> bool:
    """Whether e4m3 values, stored as uint8, contain no NaN; e4m3 has no infinity."""
    return not ((bits & 0x7F) == 0x7F).any()


def to_fp8(values: Tensor, noise: Tensor | int) -> tuple[Tensor, Tensor]:
    """Round rows to e4m3: up if the sum of the dropped bits and the noise carries, else down.

    Args:
        values: float32 [n, D], finite.
        noise: int32 [n, D], of 20 random bits; or `NEAREST_FP8`.

    Returns:
        The bits, uint8 [n, D], and the scales, float32 [n].
    """
    exponents = ((values.abs().amax(1).view(torch.int32) - 1) >> 23).clamp(min=27) - 7
    scaled = values * ((254 - exponents) << 23).view(torch.float32)[:, None]
    size = scaled.abs()
    # Below 2^-6, e4m3 values have the same spacing, 2^-9, as directly above it, so they are moved there to be rounded.
    is_small = size < 2**-6
    bits = torch.where(is_small, size + 2**-6, size).view(torch.int32) + noise
    codes = (bits >> 20) - 960 - 8 * is_small.int()
    signs = (scaled.view(torch.int32) >> 24) & 0x80
    return (codes | signs).to(torch.uint8), (exponents << 23).view(torch.float32)
