"""Whether scores can be read as probabilities: how many labels of a score are true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class CalibrationBin:
    """Predicted labels whose scores lie in a range.

    Attributes:
        low: the range's lower end, not in it but for 0.
        high: its upper end, in it.
        count: predicted labels in it.
        mean_score: of these, in [0, 1].
        share_true: of these, in [0, 1].
    """

    low: float
    high: float
    count: int
    mean_score: float
    share_true: float


def calibration(
    scores: sparse.csr_matrix, true: sparse.csr_matrix, num_bins: int = 10
) -> tuple[list[CalibrationBin], float]:
    """Reliability of scores, and the expected calibration error: the mean of |mean score - share true| over labels.

    Args:
        scores: [N, L], what is stored is predicted; values outside [0, 1] count as the nearer end.
        true: [N, L].
        num_bins: ranges of equal width; those without a label are left out.
    """
    rows = np.repeat(np.arange(len(scores.indptr) - 1), np.diff(scores.indptr))
    truth = sparse.csr_matrix(true, dtype=bool)
    is_true = np.asarray(truth[rows, scores.indices]).ravel() > 0 if len(rows) else np.zeros(0, bool)
    values = np.clip(np.asarray(scores.data, np.float64), 0, 1)
    place = np.clip(np.ceil(values * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(place, minlength=num_bins)
    means = np.bincount(place, values, num_bins) / np.maximum(counts, 1)
    shares = np.bincount(place, is_true, num_bins) / np.maximum(counts, 1)
    error = float(np.abs(means - shares) @ counts / max(1, counts.sum()))
    bins = [
        CalibrationBin(i / num_bins, (i + 1) / num_bins, int(counts[i]), float(means[i]), float(shares[i]))
        for i in np.flatnonzero(counts).tolist()
    ]
    return bins, error
