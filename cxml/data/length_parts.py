"""Split the rows of a batch into short and long ones, which the encoder computes one after the other.

A batch is padded to its longest row. If names of labels are trained beside whole texts, most of it can be padding. Two
parts have less, and the features of a row do not depend on the other rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MULTIPLE = 8  # of short rows and of their width, so that few sizes occur, for which oneDNN generates code
_LEAST_SAVING = 0.2  # share of the padded tokens; a second pass costs a few percent


class Part(NamedTuple):
    """Some rows of a batch: their indices, int64 [n], and the width that their tokens need."""

    rows: np.ndarray
    width: int


def length_parts(lengths: np.ndarray, width: int) -> tuple[Part, Part] | None:
    """The two parts with the fewest padded tokens, or None if they save less than a fifth of the batch's.

    Args:
        lengths: tokens of each row, int64 [B].
        width: padded tokens of a row.
    """
    order = np.argsort(lengths, kind="stable")
    counts = np.arange(_MULTIPLE, len(lengths), _MULTIPLE)
    if not len(counts):
        return None
    widths = -(-lengths[order[counts - 1]] // _MULTIPLE) * _MULTIPLE
    savings = counts * (width - widths)
    best = int(savings.argmax())
    if savings[best] < _LEAST_SAVING * width * len(lengths):
        return None
    num_short = int(counts[best])
    return Part(order[:num_short], int(widths[best])), Part(order[num_short:], width)
