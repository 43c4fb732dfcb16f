"""Metrics by how frequent labels are in training: ten groups of as many labels each, rare to frequent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class FrequencyGroup:
    """The labels of a group, and how many of the predictions and of the truth are theirs.

    Attributes:
        least: train texts of its rarest label.
        most: train texts of its most frequent one.
        num_labels: labels in it.
        num_true: true labels in the test split.
        precision: share of the k N predicted places that hold a true label of the group, in percent; adds up to P@k.
        psp: the same weighted by inverse propensity, over the best that is possible; adds up to PSP@k.
        recall: share of the group's true labels that are among the k predicted, in percent; 0 where there are none.
    """

    least: int
    most: int
    num_labels: int
    num_true: int
    precision: float
    psp: float
    recall: float


def by_frequency(
    predicted: np.ndarray,
    true: sparse.csr_matrix,
    train_frequency: np.ndarray,
    inverse_propensity: np.ndarray,
    k: int,
    *,
    num_groups: int = 10,
) -> list[FrequencyGroup]:
    """Cut the labels by their train frequency into groups of nearly equal size, and the metrics at k with them.

    Args:
        predicted: int [N, K], label ids, best first, -1 for none.
        true: [N, L].
        train_frequency: int [L]; labels of one frequency are told apart by their ids.
        inverse_propensity: float [L].
        k: cut-off.
        num_groups: at most L.
    """
    num_rows, num_labels = cast(tuple[int, int], true.shape)
    num_groups = min(num_groups, num_labels)
    order = np.argsort(train_frequency, kind="stable")
    group = np.empty(num_labels, np.int64)
    group[order] = np.arange(num_labels) * num_groups // num_labels
    truth = sparse.csr_matrix(true, dtype=bool)
    places = predicted[:, :k]
    rows, columns = np.nonzero(places >= 0)
    labels = places[rows, columns]
    hit = np.asarray(truth[rows, labels]).ravel() > 0
    labels = labels[hit]
    hits = np.bincount(group[labels], minlength=num_groups)
    gains = np.bincount(group[labels], inverse_propensity[labels], minlength=num_groups)
    best = _best_gain(truth, inverse_propensity, k)
    num_true = np.bincount(group[truth.indices], minlength=num_groups)
    found = []
    for number in range(num_groups):
        frequencies = train_frequency[group == number]
        found.append(
            FrequencyGroup(
                least=int(frequencies.min()), most=int(frequencies.max()), num_labels=len(frequencies),
                num_true=int(num_true[number]), precision=float(100 * hits[number] / (k * max(1, num_rows))),
                psp=float(100 * gains[number] / best) if best else 0.0,
                recall=float(100 * hits[number] / max(1, num_true[number])),
            )
        )  # fmt: skip
    return found


def _best_gain(truth: sparse.csr_matrix, inverse_propensity: np.ndarray, k: int) -> float:
    """The sum of inverse propensities that the best ranking of every row finds in its first k places."""
    rows = np.repeat(np.arange(len(truth.indptr) - 1), np.diff(truth.indptr))
    weights = inverse_propensity[truth.indices]
    order = np.lexsort((-weights, rows))
    rank = np.arange(len(order)) - truth.indptr[rows]
    return float(weights[order][rank < k].sum())


def log_odds(frequency: np.ndarray, num_texts: int) -> np.ndarray:
    """Log odds that a text has each label, float32 [L], from the texts of each, int [L]; always finite."""
    share = (frequency + 0.5) / (num_texts + 1)
    return np.log(share / (1 - share)).astype(np.float32)
