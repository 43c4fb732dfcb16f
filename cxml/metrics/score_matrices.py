"""Sparse score matrices of texts and labels: their mean over systems, and their ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import sparse


def mean_scores(systems: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
    """The mean of several systems' scores [N, L]; missing entries count as 0.

    Raises:
        ValueError: `systems` is empty, or their shapes differ.
    """
    if not systems or len({cast(tuple[int, int], scores.shape) for scores in systems}) != 1:
        raise ValueError(f"scores of different shapes cannot be averaged: {[scores.shape for scores in systems]}")
    total = systems[0].astype(np.float64)
    for scores in systems[1:]:
        total = total + scores
    return sparse.csr_matrix(total / len(systems))


def top_labels(scores: sparse.csr_matrix, k: int) -> np.ndarray:
    """The k labels with the highest scores of each row, best first: int64 [N, min(k, L)], padded with -1.

    Ties are sorted by label id. Stored scores of 0 count as entries.
    """
    num_rows, num_labels = cast(tuple[int, int], scores.shape)
    k = min(k, num_labels)
    rows = np.repeat(np.arange(num_rows), np.diff(scores.indptr))
    falling = np.negative(np.asarray(scores.data))
    order = np.lexsort((scores.indices, falling, rows))
    rank = np.arange(len(order)) - scores.indptr[rows]
    ranked = np.full((num_rows, k), -1, np.int64)
    kept = rank < k
    ranked[rows[kept], rank[kept]] = scores.indices[order][kept]
    return ranked
