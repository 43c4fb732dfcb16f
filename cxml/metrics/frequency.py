"""Metrics by train frequency of the labels: ten groups of equal size, or frequent, few-shot and zero-shot labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse

USUAL_GROUPS = ("frequent", "few", "zero-shot")
"""Labels with more than 50 train texts, with 1 to 50, and without any, as in Chalkidis et al. (2019)."""
_FREQUENT = 50


@dataclass(frozen=True)
class FrequencyGroup:
    """A group of labels, with its share of the predictions and of the true labels.

    Attributes:
        least: train texts of its rarest label.
        most: train texts of its most frequent label.
        num_labels: labels in the group.
        num_true: true labels of the group in the test split.
        precision: share of the k N predicted positions with a true label of the group, in percent; the groups sum to
            P@k.
        psp: the same, weighted by inverse propensity and divided by the best possible value; the groups sum to PSP@k.
        recall: share of the group's true labels among the k predicted ones, in percent; 0 without true labels.
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
    """Split the labels by train frequency into groups of nearly equal size, with the metrics at k of each group.

    Args:
        predicted: int [N, K], label ids, best first, -1 for none.
        true: [N, L].
        train_frequency: int [L]; ties are broken by label id.
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
    """The index in `USUAL_GROUPS` of each label's group, int64 [L], from its train texts, int [L]."""
    return np.where(train_frequency > _FREQUENT, 0, np.where(train_frequency > 0, 1, 2))


def within_group(
    predicted: np.ndarray, true: sparse.csr_matrix, is_in_group: np.ndarray
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Restrict rankings and true labels to the labels of a group, for the texts that have one of them.

    Args:
        predicted: int [N, K], best first, -1 for none.
        true: [N, L].
        is_in_group: bool [L].

    Returns:
        Rankings int [n, K] of the group's labels among the K, and the true labels of the group [n, L].
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
    """`by_frequency` for given groups, int64 [L]; groups without a label are omitted."""
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
    """The sum of inverse propensities in the first k positions of the best possible rankings."""
    rows = np.repeat(np.arange(len(truth.indptr) - 1), np.diff(truth.indptr))
    weights = inverse_propensity[truth.indices]
    order = np.lexsort((-weights, rows))
    rank = np.arange(len(order)) - truth.indptr[rows]
    return float(weights[order][rank < k].sum())


def log_odds(frequency: np.ndarray, num_texts: int) -> np.ndarray:
    """Log odds of each label, float32 [L], from its number of texts, int [L]; always finite."""
    share = (frequency + 0.5) / (num_texts + 1)
    return np.log(share / (1 - share)).astype(np.float32)
