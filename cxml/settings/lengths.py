"""Choose the maximum length from the lengths of some texts."""

from __future__ import annotations

import numpy as np

_SHARE = 0.99
_MULTIPLE = 8  # efficient for matrix units, and limits the number of different batch lengths
_LEAST = 16


def longest_text(lengths: np.ndarray, longest_possible: int) -> int:
    """The length that 99 % of the texts do not exceed, rounded up to a multiple of 8.

    The longest percent of the texts costs more than it helps: it would make the batches that contain such a text
    several times as wide. Texts of a few words get at least 16 tokens, to leave room for longer texts later.

    Args:
        lengths: tokens of some texts, special ones included, at least one.
        longest_possible: maximum tokens of the encoder.
    """
    long = float(np.quantile(lengths, _SHARE, method="higher"))
    rounded = _MULTIPLE * -(-int(long) // _MULTIPLE)
    return min(max(rounded, _LEAST), longest_possible)
