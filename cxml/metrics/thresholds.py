"""Choose probability thresholds that maximise a measure of the decisions on the given texts.

Input: `ScoredPairs`, the text-label pairs that a model scored on validation texts.

Output: `Thresholds`, one shared by all labels and, for macro-F1, separate ones for labels that are frequent enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from scipy import sparse

from cxml.metrics.label_counts import LabelCounts
from cxml.metrics.ranking import find_hits, plain_truth

_LEAST_TRUE = (1, 2, 3, 5, 10, 20, 50, 100)
"""Candidates for the number of true texts that a label needs for its own threshold."""
_MOST_OWN = 1_000_000  # so that the thresholds fit the size limit of JSON files


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A label is assigned if its probability is at least its threshold.

    Attributes:
        shared: threshold of all labels without their own.
        labels: sorted int64 [n], labels with their own threshold.
        own: float64 [n], the thresholds of `labels`.
    """

    shared: float
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    own: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float64))

    def of(self, labels: np.ndarray) -> np.ndarray:
        """The threshold of each label, float64, in the shape of `labels`."""
        if not len(self.labels):
            return np.full(labels.shape, self.shared)
        place = np.minimum(np.searchsorted(self.labels, labels), len(self.labels) - 1)
        return np.where(self.labels[place] == labels, self.own[place], self.shared)

    def above(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Whether each label, int [...], is assigned at its score, float [...]; always false for -1."""
        return (scores.astype(np.float64) >= self.of(labels)) & (labels >= 0)

    def renumbered(self, kept: np.ndarray) -> Thresholds:
        """The thresholds of the labels `kept`, sorted int64 [m], renumbered to 0..m - 1."""
        place = np.minimum(np.searchsorted(kept, self.labels), max(0, len(kept) - 1))
        is_kept = kept[place] == self.labels if len(kept) else np.zeros(len(self.labels), bool)
        return Thresholds(self.shared, place[is_kept], self.own[is_kept])


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """Text-label pairs scored by a model.

    Attributes:
        texts: int64 [n].
        labels: int64 [n].
        scores: float64 [n].
        is_true: bool [n].
        num_true: int64 [L], all texts of each label, including those whose pairs were not scored.
    """

    texts: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    is_true: np.ndarray
    num_true: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray, true: sparse.csr_matrix) -> ScoredPairs:
        """Pairs from the best labels of N texts, int [N, K] (-1 for none), their scores, and the true labels [N, L]."""
        _, num_labels = cast(tuple[int, int], true.shape)
        truth = plain_truth(true)
        texts, places = np.nonzero(labels >= 0)
        is_true = find_hits(labels, truth)[texts, places]
        return cls(
            texts=texts,
            labels=labels[texts, places].astype(np.int64),
            scores=scores[texts, places].astype(np.float64),
            is_true=is_true,
            num_true=np.bincount(truth.indices, minlength=num_labels),
        )

    def take(self, chosen: np.ndarray, num_true: np.ndarray) -> ScoredPairs:
        """A subset of the pairs, of texts with `num_true` texts per label."""
        return ScoredPairs(
            self.texts[chosen], self.labels[chosen], self.scores[chosen], self.is_true[chosen], num_true
        )  # fmt: skip

    def counts(self, thresholds: Thresholds) -> LabelCounts:
        """The counts of the decisions with these thresholds."""
        kept = thresholds.above(self.labels, self.scores)
        size = len(self.num_true)
        predicted = np.bincount(self.labels[kept], minlength=size)
        return LabelCounts(self.num_true, predicted, np.bincount(self.labels[kept & self.is_true], minlength=size))


def micro_f1_threshold(pairs: ScoredPairs) -> Thresholds | None:
    """The highest threshold that maximises micro-F1. None without a true pair."""
    order, ends = _falling(pairs.scores)
    hits = np.cumsum(pairs.is_true[order])[ends]
    return _best(pairs.scores[order], ends, 2 * hits / (ends + 1 + pairs.num_true.sum()))


def precision_threshold(pairs: ScoredPairs, precision: float) -> Thresholds | None:
    """The lowest threshold with a micro precision of at least `precision`, in (0, 1]; None if none reaches it."""
    order, ends = _falling(pairs.scores)
    reached = np.cumsum(pairs.is_true[order])[ends] / (ends + 1) >= precision
    return _best(pairs.scores[order], ends, np.where(reached, ends + 1, 0))


def macro_f1_thresholds(pairs: ScoredPairs, true: sparse.csr_matrix) -> Thresholds | None:
    """Thresholds that maximise macro-F1, the mean of the labels' F1. None without a true pair.

    A label with enough true texts gets the threshold that maximises its own F1. The other labels share the threshold
    that maximises the mean, because the best thresholds of rare labels overfit. The required number of texts is chosen
    by two-fold cross-validation.

    Args:
        pairs: the scored pairs.
        true: the true labels of all texts, CSR [N, L].
    """
    fitted = _macro_thresholds(pairs)
    if fitted is None:
        return None
    halves = [_half(pairs, plain_truth(true), parity) for parity in (0, 1)]
    reached = np.zeros(len(_LEAST_TRUE) + 1)
    for chosen_on, counted_on in (halves, halves[::-1]):
        found = _macro_thresholds(chosen_on)
        if found is None:
            continue
        for place, least in enumerate((*_LEAST_TRUE, None)):
            counts = counted_on.counts(_of_frequent(found, chosen_on.num_true, least))
            reached[place] += counts.metrics()["macro-F1"]
    best = len(reached) - 1 - int(np.argmax(reached[::-1]))  # ties go to the fewest thresholds
    return _of_frequent(fitted, pairs.num_true, (*_LEAST_TRUE, None)[best])


def _half(pairs: ScoredPairs, truth: sparse.csr_array, parity: int) -> ScoredPairs:
    """The pairs of every other text."""
    num_true = np.bincount(truth[parity::2].indices, minlength=len(pairs.num_true))
    return pairs.take(pairs.texts % 2 == parity, num_true)


def _of_frequent(thresholds: Thresholds, num_true: np.ndarray, least: int | None) -> Thresholds:
    """Keep own thresholds only for labels with at least `least` true texts; None keeps none."""
    kept = num_true[thresholds.labels] >= (np.inf if least is None else least)
    if kept.sum() > _MOST_OWN:
        kept &= num_true[thresholds.labels] > np.sort(num_true[thresholds.labels])[-_MOST_OWN]
    return replace(thresholds, labels=thresholds.labels[kept], own=thresholds.own[kept])


def _macro_thresholds(pairs: ScoredPairs) -> Thresholds | None:
    """The best shared threshold, and an own one for every label with a hit."""
    order, ends = _falling(pairs.scores)
    labels, scores, is_true = pairs.labels[order], pairs.scores[order], pairs.is_true[order]
    by_label = np.argsort(labels, kind="stable")  # best first within a label
    starts = np.flatnonzero(np.diff(labels[by_label], prepend=-1))
    f1 = _running_f1(labels[by_label], is_true[by_label], starts, pairs.num_true)
    change = np.empty(len(f1))
    change[by_label] = np.diff(f1, prepend=0)
    change[by_label[starts]] = f1[starts]
    shared = _best(scores, ends, np.round(np.cumsum(change)[ends], 9))
    if shared is None:
        return None
    return _own_thresholds(shared.shared, labels[by_label], scores[by_label], f1, starts)


def _running_f1(labels: np.ndarray, is_true: np.ndarray, starts: np.ndarray, num_true: np.ndarray) -> np.ndarray:
    """The F1 of each label if it is assigned up to each pair; pairs by label, best first, from `starts` on."""
    sizes = np.diff(starts, append=len(labels))
    number = np.arange(len(labels)) - np.repeat(starts, sizes) + 1
    hits = np.cumsum(is_true)
    before = np.repeat(hits[starts] - is_true[starts], sizes)
    return 2 * (hits - before) / (number + num_true[labels])


def _own_thresholds(
    shared: float, labels: np.ndarray, scores: np.ndarray, f1: np.ndarray, starts: np.ndarray
) -> Thresholds:
    """Each label's best threshold; among those with equal decisions, the one nearest to `shared`."""
    following = np.append(scores[1:], 0.0)
    following[np.append(starts[1:], len(labels)) - 1] = 0.0  # no known score lies below a label's last pair
    is_cut = scores > following
    at_cuts = np.where(is_cut, f1, 0.0)
    segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(labels)))
    best = np.maximum.reduceat(at_cuts, starts)
    candidates = np.flatnonzero((at_cuts == best[segment]) & (at_cuts > 0))
    _, first = np.unique(segment[candidates], return_index=True)
    places = candidates[first]
    high, low = scores[places], following[places]
    own = np.where(shared > high, high, np.where(shared > low, shared, (high + low) / 2))
    return Thresholds(shared, labels[places], own)


def _falling(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 [n] by descending score, and the last position int64 [m] of each run of equal scores."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.diff(scores[order], append=-np.inf) < 0)


def _best(scores: np.ndarray, ends: np.ndarray, values: np.ndarray) -> Thresholds | None:
    """A threshold between the scores around the end with the highest value; None if no value is above 0."""
    if not len(ends) or not values.max() > 0:
        return None
    end = ends[int(np.argmax(values))]
    below = scores[end + 1] if end + 1 < len(scores) else scores[end]  # scores below it are unknown
    return Thresholds(float((scores[end] + below) / 2))
