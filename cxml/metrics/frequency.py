"""Metrics by how frequent labels are in training: ten groups of as many labels each, or frequent, few and zero-shot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse

USUAL_GROUPS = ("frequent", "few", "zero-shot")
"""Labels of more than 50 train texts, of 1 to 50, and of none: the field's cuts (Chalkidis et al. 2019)."""
_FREQUENT = 50


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
    num_labels = len(train_frequency)
    num_groups = min(num_groups, num_labels)
    order = np.argsort(train_frequency, kind="stable")
    group = np.empty(num_labels, np.int64)
    group[order] = np.arange(num_labels) * num_groups // num_labels
    return list(by_group(predicted, true, train_frequency, inverse_propensity, k, group=group).values())


def usual_groups(train_frequency: np.ndarray) -> np.ndarray:
    """The place of each label's group in `USUAL_GROUPS`, int64 [L], from its train texts, int [L]."""
    return np.where(train_frequency > _FREQUENT, 0, np.where(train_frequency > 0, 1, 2))


def within_group(
    predicted: np.ndarray, true: sparse.csr_matrix, is_in_group: np.ndarray
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """What is ranked and true if a group's labels were all there are, of the texts that have one of them.

    Args:
        predicted: int [N, K], best first, -1 for none.
        true: [N, L].
        is_in_group: bool [L].

    Returns:
        Rankings int [n, K] of the group's labels among the K, and the true ones [n, L].
    """
    kept = is_in_group[predicted] & (predicted >= 0)
    order = np.argsort(~kept, axis=1, kind="stable")
    ranked = np.take_along_axis(np.where(kept, predicted, -1), order, 1)
    truth = sparse.csr_matrix(true, dtype=bool)
    truth = sparse.csr_matrix(truth.multiply(is_in_group[None, :]))
    truth.eliminate_zeros()
    rows = np.flatnonzero(np.diff(truth.indptr))
    return ranked[rows], sparse.csr_matrix(truth[rows])


def by_group(
    predicted: np.ndarray,
    true: sparse.csr_matrix,
    train_frequency: np.ndarray,
    inverse_propensity: np.ndarray,
    k: int,
    *,
    group: np.ndarray,
) -> dict[int, FrequencyGroup]:
    """`by_frequency` for groups that are given, int64 [L]; those without a label are left out."""
    num_rows, _ = cast(tuple[int, int], true.shape)
    num_groups = int(group.max()) + 1
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
    found = {}
    for number in np.unique(group).tolist():
        frequencies = train_frequency[group == number]
        found[number] = FrequencyGroup(
            least=int(frequencies.min()), most=int(frequencies.max()), num_labels=len(frequencies),
            num_true=int(num_true[number]), precision=float(100 * hits[number] / (k * max(1, num_rows))),
            psp=float(100 * gains[number] / best) if best else 0.0,
            recall=float(100 * hits[number] / max(1, num_true[number])),
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
