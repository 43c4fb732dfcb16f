"""Precision, recall and F1 of label sets, such as the labels above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse

from cxml.metrics.ranking import find_hits, plain_truth


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Counts of decisions for each label over some texts; `+` merges disjoint sets of texts.

    Attributes:
        true: texts with the label, int64 [L].
        predicted: texts for which the label is predicted, int64 [L].
        hits: texts for which it is predicted and true, int64 [L].
    """

    true: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray

    def __add__(self, other: LabelCounts) -> LabelCounts:
        """The counts over both sets of texts."""
        return LabelCounts(self.true + other.true, self.predicted + other.predicted, self.hits + other.hits)

    def of(self, labels: np.ndarray) -> LabelCounts:
        """The counts of some labels, int64 [n] or bool [L]."""
        return LabelCounts(self.true[labels], self.predicted[labels], self.hits[labels])

    def metrics(self) -> dict[str, float]:
        """Micro and macro precision, recall and F1 in percent: "micro-P", "micro-R", "micro-F1", "macro-P", ...

        Micro: over all decisions. Macro: the mean over the labels with at least one text; the recall of other labels is
        undefined (in scikit-learn, pass `labels=`). Division by 0 gives 0.
        """
        micro = _precision_recall_f1(*(np.array([each.sum()]) for each in (self.true, self.predicted, self.hits)))
        present = self.of(self.true > 0)
        macro = _precision_recall_f1(present.true, present.predicted, present.hits)
        return {
            f"{kind}-{name}": float(100 * values.mean()) if len(values) else 0.0
            for kind, found in (("micro", micro), ("macro", macro))
            for name, values in found.items()
        }


def _precision_recall_f1(true: np.ndarray, predicted: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "P": hits / np.maximum(predicted, 1),
        "R": hits / np.maximum(true, 1),
        "F1": 2 * hits / np.maximum(true + predicted, 1),
    }


def label_counts(predicted: np.ndarray, true: sparse.csr_matrix) -> LabelCounts:
    """Count decisions.

    Args:
        predicted: int [N, K], unique labels of each text; -1 for none.
        true: [N, L], non-zero where a label is true.
    """
    _, num_labels = cast(tuple[int, int], true.shape)
    truth = plain_truth(true)
    hits = predicted[find_hits(predicted, truth)]
    return LabelCounts(
        *(np.bincount(each, minlength=num_labels) for each in (truth.indices, predicted[predicted >= 0], hits))
    )


def r_precision(predicted: np.ndarray, true: sparse.csr_matrix) -> float:
    """R-precision in percent: the mean over texts of the precision at R, the number of the text's true labels.

    Args:
        predicted: int [N, K], best first, -1 for none. If R is above K, missing labels count as misses.
        true: [N, L].
    """
    truth = plain_truth(true)
    num_true = np.diff(truth.indptr)
    is_in_front = np.arange(predicted.shape[1]) < num_true[:, None]
    hits = (find_hits(predicted, truth) & is_in_front).sum(axis=1)
    return float(100 * (hits / np.maximum(num_true, 1)).mean()) if len(hits) else 0.0
