"""The part of a report about decisions: F1 at thresholds, and metrics by frequency group of the labels.

best labels of validation texts -> thresholds, calibration (`cxml.prediction.choose_decisions`)
best labels of test texts, thresholds -> decision_report()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from cxml.metrics import (
    USUAL_GROUPS,
    LabelCounts,
    ScoredPairs,
    Thresholds,
    by_group,
    calibration,
    metric_sums,
    r_precision,
    usual_groups,
    within_group,
)
from cxml.prediction import Decisions

_MOST_CANDIDATES = 100
_MOST_PAIRS = 20_000_000  # each needs some hundred bytes of memory during the choice of thresholds
_UNCHOSEN = "0.5"  # the default threshold of models without their own


def num_candidates(num_texts: int) -> int:
    """Labels per text to which thresholds apply; all others count as below every threshold."""
    return min(_MOST_CANDIDATES, max(1, _MOST_PAIRS // max(1, num_texts)))


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
    """Predictions of a model for N texts, and their true labels.

    Attributes:
        labels: int64 [N, K], best first, -1 for none.
        scores: float32 [N, K].
        true: CSR [N, L].
    """

    labels: np.ndarray
    scores: np.ndarray
    true: sparse.csr_matrix


def decision_report(
    test: Ranked, decisions: Decisions, frequency: np.ndarray, inverse_propensity: np.ndarray, ks: Sequence[int]
) -> dict[str, Any]:
    """The part of a report about decisions.

    Args:
        test: predictions of the test split.
        decisions: thresholds and calibration chosen on validation texts; empty without any.
        frequency: train texts of each label, int64 [L].
        inverse_propensity: float64 [L].
        ks: cut-offs of the report; groups of labels are shown at the largest.

    Returns:
        `decisions`: `texts`, the validation texts; `thresholds`, the shared threshold by name and how many labels have
        their own; `metrics` by name, of the test split. `label_groups`: cut-off `k`, the `threshold`, `groups` by name.
        `calibrated`, with a calibration: the expected calibration error of scores as they are and as probabilities.
    """
    thresholds = {_UNCHOSEN: Thresholds(0.5), **decisions.thresholds}
    pairs = ScoredPairs.of(test.labels, test.scores, test.true)
    counts = {name: pairs.counts(each) for name, each in thresholds.items()}
    name = "micro-f1" if "micro-f1" in counts else _UNCHOSEN
    report: dict[str, Any] = {
        "decisions": {
            "texts": decisions.num_texts,
            "thresholds": {name: {"shared": each.shared, "own": len(each.own)} for name, each in thresholds.items()},
            "metrics": {name: _metrics(each, len(test.labels)) for name, each in counts.items()},
        },
        "label_groups": {
            "k": max(ks),
            "threshold": name,
            "groups": _groups(test, counts[name], frequency, inverse_propensity, max(ks)),
        },
    }
    if decisions.calibration is not None:
        report["calibrated"] = _calibration_errors(test, decisions, max(ks))
    return report


def _metrics(counts: LabelCounts, num_texts: int) -> dict[str, float]:
    return {**counts.metrics(), "labels per text": float(counts.predicted.sum() / max(1, num_texts))}


def _groups(
    test: Ranked, counts: LabelCounts, frequency: np.ndarray, inverse_propensity: np.ndarray, k: int
) -> dict[str, Mapping[str, float]]:
    group = usual_groups(frequency)
    everything = by_group(test.labels, test.true, frequency, inverse_propensity, k, group=np.zeros_like(group))
    of_groups = by_group(test.labels, test.true, frequency, inverse_propensity, k, group=group)
    found = {"all": (np.ones(len(group), bool), everything[0])}
    found |= {USUAL_GROUPS[number]: (group == number, each) for number, each in of_groups.items()}
    return {
        name: {
            **dataclasses.asdict(facts),
            f"recall@{k}": facts.recall,
            **_ranking_within(test, is_in_group, k),
            **counts.of(is_in_group).metrics(),
        }
        for name, (is_in_group, facts) in found.items()
    }


def _ranking_within(test: Ranked, is_in_group: np.ndarray, k: int) -> dict[str, float]:
    """RP@k, nDCG@k and R-precision restricted to the group's labels; empty if none of them is true."""
    labels, true = within_group(test.labels, test.true, is_in_group)
    if not len(labels):
        return {}
    at_k = metric_sums(labels, true, [k]).result()
    return {name: at_k[name] for name in (f"RP@{k}", f"nDCG@{k}")} | {"R-precision": r_precision(labels, true)}


def _calibration_errors(test: Ranked, decisions: Decisions, k: int) -> dict[str, float]:
    assert decisions.calibration is not None
    labels, scores = test.labels[:, :k], test.scores[:, :k]
    rows, places = np.nonzero(labels >= 0)
    columns = labels[rows, places]

    def error(values: np.ndarray) -> float:
        matrix = sparse.csr_matrix((values[rows, places], (rows, columns)), test.true.shape)
        return calibration(matrix, test.true)[1]

    return {"scores": error(scores), "probabilities": error(decisions.calibration(scores))}
