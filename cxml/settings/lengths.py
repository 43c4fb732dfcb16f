"""The longest text that is kept whole, from the lengths of some texts."""

from __future__ import annotations

import numpy as np

_SHARE = 0.99
_MULTIPLE = 8  # what matrix units like, and few lengths of batches
_LEAST = 16


def longest_text(lengths: np.ndarray, longest_possible: int) -> int:
    """The length that 99 % of the texts do not exceed, rounded up to a multiple of 8.

    The last percent costs more than it tells: where one long text in a hundred sets the length, batches that it
    is in are several times as wide. Texts of a few words get 16 tokens, room for longer ones to come.

    Args:
        lengths: tokens of some texts, special ones included, at least one.
        longest_possible: tokens that the encoder reads at most.
    """
    long = float(np.quantile(lengths, _SHARE, method="higher"))
    rounded = _MULTIPLE * -(-int(long) // _MULTIPLE)
    return min(max(rounded, _LEAST), longest_possible)
