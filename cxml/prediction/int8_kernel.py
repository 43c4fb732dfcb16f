"""The compiled loop over label rows of one byte per weight. numba's cache notices only changes of this file."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

_FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(parallel=True, nogil=True, cache=True, fastmath=_FAST)
def best_int8_rows(features, leaf_ptr, first_rows, last_rows, leaf_scores, shift, k, weight, scale, bias):
    """The k best rows of each text; `cxml.optim.best_rows` for rows of `weight[r] * scale[r]`.

    Args:
        features: float32 [B, D].
        leaf_ptr: int64 [B + 1]; this and the next four are those of `cxml.optim.best_rows`.
        first_rows: int64 [P].
        last_rows: int64 [P].
        leaf_scores: float32 [P].
        shift: int64 [P].
        k: rows wanted per text.
        weight: int8 [R, D].
        scale: float32 [R].
        bias: float32 [R].

    Returns:
        Scores float32 [B, k], best first (-1 where there is none), and label positions int64 [B, k] (-1 likewise).
    """
    width = features.shape[1]
    scores = np.full((features.shape[0], k), -1, np.float32)
    positions = np.full((features.shape[0], k), -1, np.int64)
    for b in prange(features.shape[0]):
        for p in range(leaf_ptr[b], leaf_ptr[b + 1]):
            for r in range(first_rows[p], last_rows[p]):
                product = np.float32(0)
                for d in range(width):
                    product += np.float32(weight[r, d]) * features[b, d]
                logit = product * scale[r] + bias[r]
                score = np.float32(1 / (1 + math.exp(-logit))) * leaf_scores[p]
                if score > scores[b, k - 1]:
                    place = k - 1
                    while place > 0 and score > scores[b, place - 1]:
                        scores[b, place] = scores[b, place - 1]
                        positions[b, place] = positions[b, place - 1]
                        place -= 1
                    scores[b, place] = score
                    positions[b, place] = r + shift[p]
    return scores, positions
