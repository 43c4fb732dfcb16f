"""Calibration of scores: reliability bins, the expected calibration error, and a map to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import isotonic_regression


@dataclass(frozen=True)
class CalibrationBin:
    """Predicted labels whose scores lie in a range.

    Attributes:
        low: lower end of the range, exclusive except for 0.
        high: upper end, inclusive.
        count: number of predicted labels in the range.
        mean_score: their mean score, in [0, 1].
        share_true: share of them that is true, in [0, 1].
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
        scores: [N, L], stored entries are predictions; values are clipped to [0, 1].
        true: [N, L].
        num_bins: number of ranges of equal width; empty ranges are omitted.
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


@dataclass(frozen=True, eq=False)
class Calibration:
    """A monotone map from scores to shares of true labels, linear between knots.

    Attributes:
        scores: sorted float64 [n] in [0, 1].
        shares: sorted float64 [n] in [0, 1].
    """

    scores: np.ndarray
    shares: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Map scores of any shape to probabilities, float32. The map never reverses the order of two scores."""
        return np.interp(scores, self.scores, self.shares).astype(np.float32)


def fit_calibration(scores: np.ndarray, is_true: np.ndarray) -> Calibration | None:
    """Fit an isotonic regression (Zadrozny and Elkan 2002): the monotone map with the least squared error.

    Each step becomes a knot at its mean score, with linear interpolation between knots, so different scores rarely get
    the same probability. A score of 0 stays 0.

    Args:
        scores: [n], in [0, 1], of text-label pairs not used for training.
        is_true: bool [n].

    Returns:
        The map; None without pairs.
    """
    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    if not len(values):
        return None
    counts = np.bincount(place).astype(np.float64)
    fitted = isotonic_regression(np.bincount(place, is_true) / counts, weights=counts)
    starts = fitted.blocks[:-1]
    middles = np.add.reduceat(values * counts, starts) / np.add.reduceat(counts, starts)
    shares = np.clip(fitted.x[starts], 0, 1)
    front = [0.0] if middles[0] > 0 else []
    return Calibration(np.append(front, middles), np.append(front, shares))
