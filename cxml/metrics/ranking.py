"""Ranking metrics as sums over examples, computed on whole arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse

BEST_SUM = " best"
"""Suffix of a propensity-scored metric's normaliser: the same sum for a perfect ranking."""


@dataclass(frozen=True, eq=False)
class MetricSums:
    """Sums of metrics over some examples; `+` merges disjoint sets of examples."""

    ks: tuple[int, ...]
    """The cut-offs k."""
    num_examples: int
    """Number of examples, including those without a true label, which count as misses."""
    sums: Mapping[str, np.ndarray]
    """float64 [len(ks)] for each metric and each normaliser."""

    def __add__(self, other: MetricSums) -> MetricSums:
        """The sums over both sets of examples."""
        if self.ks != other.ks or self.sums.keys() != other.sums.keys():
            raise ValueError(f"sums of different metrics cannot be added: {self._columns()} and {other._columns()}")
        sums = {name: values + other.sums[name] for name, values in self.sums.items()}
        return MetricSums(self.ks, self.num_examples + other.num_examples, sums)

    def to_vector(self) -> np.ndarray:
        """All sums as one float64 vector, for an all-reduce over ranks. The first entry is the number of examples."""
        return np.concatenate([[self.num_examples], *self.sums.values()], dtype=np.float64)

    def with_vector(self, vector: np.ndarray) -> MetricSums:
        """These metrics with the values of `vector`, a sum of `to_vector` results of the same metrics."""
        rows = vector[1:].reshape(len(self.sums), len(self.ks))
        sums = dict(zip(self.sums, rows, strict=True))
        return dataclasses.replace(self, num_examples=round(vector[0]), sums=sums)

    def result(self) -> dict[str, float]:
        """The metrics in percent, such as {"P@1": 48.5, "P@3": 43.7, ...}.

        Propensity-scored metrics are divided by the value of a perfect ranking of the same examples. They are 0 if no
        example has a true label.

        Raises:
            ValueError: there are no examples.
        """
        if self.num_examples == 0:
            raise ValueError("metrics of zero examples are undefined")
        return {
            f"{name}@{k}": float(100 * value)
            for name, values in self.sums.items()
            if not name.endswith(BEST_SUM)
            for k, value in zip(self.ks, self._mean(name, values), strict=True)
        }

    def _mean(self, name: str, values: np.ndarray) -> np.ndarray:
        best = self.sums.get(name + BEST_SUM)
        if best is None:
            return values / self.num_examples
        return np.divide(values, best, out=np.zeros_like(values), where=best > 0)

    def _columns(self) -> str:
        return f"{', '.join(self.sums)} at {self.ks}"


def metric_sums(
    predicted: np.ndarray,
    true: sparse.csr_array | sparse.csr_matrix,
    ks: Sequence[int],
    inverse_propensity: np.ndarray | None = None,
) -> MetricSums:
    """Sums of P@k, RP@k, recall@k and nDCG@k; with `inverse_propensity`, also of PSP@k and PSnDCG@k.

    P divides hits by k, RP by min(k, true labels) (Chalkidis et al. 2019). nDCG divides by the gain of min(k, true
    labels) hits at the top. Propensity-scored sums include the sums of the best possible ranking, because published
    results divide over all examples (Jain et al. 2016).

    Args:
        predicted: int [N, K], node or label ids, best first, unique per row; -1 for none. K may be smaller than a k;
            missing labels count as misses.
        true: [N, L], non-zero where a label is true.
        ks: the cut-offs.
        inverse_propensity: float [L], see `inverse_propensities`; None omits the propensity-scored metrics, as
            for the clusters of a tree.

    Raises:
        ValueError: shapes do not match, a k is below 1, or a row of `predicted` has an invalid or repeated id.
    """
    rows = metric_rows(predicted, true, ks, inverse_propensity)
    sums = {name: values.sum(axis=0) for name, values in rows.items()}
    return MetricSums(tuple(ks), predicted.shape[0], sums)


def metric_rows(
    predicted: np.ndarray,
    true: sparse.csr_array | sparse.csr_matrix,
    ks: Sequence[int],
    inverse_propensity: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The contribution of each example to `metric_sums`, with the same arguments: float64 [N, len(ks)] by name."""
    truth = plain_truth(true)
    num_rows, num_labels = cast(tuple[int, int], true.shape)
    _check(predicted, num_rows, num_labels, ks, inverse_propensity)
    width = max(1, min(max(ks), num_labels))  # positions after the last label cannot be hits
    ranked = _cut(predicted, width)
    hits = find_hits(ranked, truth)
    at = np.minimum(ks, width) - 1
    num_true = np.diff(truth.indptr).astype(np.int64)
    discounts = 1 / np.log2(np.arange(2, width + 2))
    # ideal[n, i]: DCG at ks[i] of a ranking with all true labels of example n first; 1 if it has none, so that the
    # division below gives 0.
    ideal = np.append(1.0, np.cumsum(discounts))[np.minimum(num_true[:, None], np.asarray(ks))]
    found = np.cumsum(hits, axis=1)[:, at]
    rows = {
        "P": found / np.asarray(ks),
        "RP": found / np.maximum(1, np.minimum(num_true[:, None], np.asarray(ks))),
        "nDCG": np.cumsum(hits * discounts, axis=1)[:, at] / ideal,
        "recall": found / np.maximum(num_true, 1)[:, None],
    }
    if inverse_propensity is not None:
        gains = hits * inverse_propensity[np.maximum(ranked, 0)]
        best = _best_gains(truth, inverse_propensity, width)
        for suffix, gain in (("", gains), (BEST_SUM, best)):
            rows["PSP" + suffix] = np.cumsum(gain, axis=1)[:, at] / np.asarray(ks)
            rows["PSnDCG" + suffix] = np.cumsum(gain * discounts, axis=1)[:, at] / ideal
    return rows


def _check(
    predicted: np.ndarray, num_rows: int, num_labels: int, ks: Sequence[int], inverse_propensity: np.ndarray | None
) -> None:
    if predicted.ndim != 2 or predicted.shape[0] != num_rows:
        raise ValueError(f"predicted has shape {predicted.shape}, but true has {num_rows} rows")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks = {tuple(ks)}: give at least one k, each 1 or more")
    if inverse_propensity is not None and inverse_propensity.shape != (num_labels,):
        raise ValueError(f"inverse_propensity has shape {inverse_propensity.shape}, but true has {num_labels} labels")
    if predicted.size and not -1 <= predicted.min() <= predicted.max() < num_labels:
        raise ValueError(f"predicted ids must be from -1 (none) to {num_labels - 1}")
    by_id = np.sort(predicted, axis=1)
    if np.any((by_id[:, 1:] == by_id[:, :-1]) & (by_id[:, 1:] >= 0)):
        raise ValueError("predicted contains a label twice in one row")


def _cut(predicted: np.ndarray, width: int) -> np.ndarray:
    """The first `width` columns as int64 [N, width], padded with -1."""
    ranked = np.full((predicted.shape[0], width), -1, dtype=np.int64)
    kept = predicted[:, :width]
    ranked[:, : kept.shape[1]] = kept
    return ranked


def plain_truth(true: sparse.csr_array | sparse.csr_matrix) -> sparse.csr_array:
    """A copy of the true labels as bool [N, L], without duplicates, sorted within each row."""
    truth = sparse.csr_array(true, dtype=bool, copy=True)
    truth.sum_duplicates()
    truth.eliminate_zeros()
    return truth


def find_hits(ranked: np.ndarray, truth: sparse.csr_array) -> np.ndarray:
    """Whether each label is true, as bool [N, K]; a (row, label) pair is looked up as one integer.

    Args:
        ranked: int [N, K], -1 for none, which counts as not true.
        truth: [N, L], see `plain_truth`.
    """
    num_rows, num_labels = cast(tuple[int, int], truth.shape)
    rows = np.repeat(np.arange(num_rows, dtype=np.int64), np.diff(truth.indptr))
    true_keys = rows * num_labels + truth.indices  # ascending, as the indices of each row are
    if not true_keys.size:
        return np.zeros(ranked.shape, dtype=bool)
    keys = np.arange(num_rows, dtype=np.int64)[:, None] * num_labels + ranked
    found = true_keys[np.minimum(np.searchsorted(true_keys, keys), true_keys.size - 1)]
    return (found == keys) & (ranked >= 0)


def _best_gains(truth: sparse.csr_array, inverse_propensity: np.ndarray, width: int) -> np.ndarray:
    """The largest inverse propensities of each row's true labels, descending, padded with 0: float64 [N, width]."""
    num_rows = len(truth.indptr) - 1
    rows = np.repeat(np.arange(num_rows), np.diff(truth.indptr))
    weights = inverse_propensity[truth.indices].astype(np.float64)
    falling = weights[np.lexsort((-weights, rows))]
    rank = np.arange(truth.nnz) - truth.indptr[rows]
    best = np.zeros((num_rows, width))
    kept = rank < width
    best[rows[kept], rank[kept]] = falling[kept]
    return best
