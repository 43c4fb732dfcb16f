"""Chosen thresholds are the best, and calibration is isotonic.

Oracles: every possible threshold by brute force, and scikit-learn's isotonic regression (hypothesis).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.isotonic import IsotonicRegression

from cxml.metrics import (
    ScoredPairs,
    Thresholds,
    calibration,
    fit_calibration,
    macro_f1_thresholds,
    micro_f1_threshold,
    precision_threshold,
)
from cxml.metrics.thresholds import _macro_thresholds


@st.composite
def scored(draw):
    """Labels int [N, K], scores float32 [N, K] with ties, true labels [N, L]."""
    num_rows, num_labels = draw(st.integers(1, 10)), draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    true = sparse.csr_matrix(generator.random((num_rows, num_labels)) < 0.4, dtype=np.float32)
    width = draw(st.integers(1, num_labels))
    labels = np.argsort(generator.random((num_rows, num_labels)), axis=1)[:, :width]
    labels = np.where(generator.random(labels.shape) < 0.8, labels, -1)
    scores = (generator.integers(1, draw(st.integers(2, 40)), labels.shape) / 40).astype(np.float32)
    return labels, scores, true


def every_threshold(pairs):
    """One for each way to decide by a single threshold."""
    return [Thresholds(float(score)) for score in np.unique(pairs.scores)]


def metric(pairs, thresholds, name):
    return pairs.counts(thresholds).metrics()[name]


@given(scored())
@settings(max_examples=80, deadline=None)
def test_no_threshold_has_a_higher_micro_f1(example):
    pairs = ScoredPairs.of(*example)
    found = micro_f1_threshold(pairs)
    best = max((metric(pairs, each, "micro-F1") for each in every_threshold(pairs)), default=0)
    assert (found is None) == (best == 0)
    if found is not None:
        assert metric(pairs, found, "micro-F1") == pytest.approx(best)


@given(scored(), st.floats(0.05, 1))
@settings(max_examples=80, deadline=None)
def test_no_lower_threshold_has_the_wanted_precision(example, wanted):
    pairs = ScoredPairs.of(*example)
    found = precision_threshold(pairs, wanted)
    reaching = [each for each in every_threshold(pairs) if metric(pairs, each, "micro-P") / 100 >= wanted - 1e-12]
    assert (found is None) == (not reaching)
    if found is not None:
        lowest = min(reaching, key=lambda each: each.shared)
        assert pairs.counts(found).predicted.sum() == pairs.counts(lowest).predicted.sum()


@given(scored())
@settings(max_examples=60, deadline=None)
def test_the_shared_threshold_and_those_of_single_labels_are_best_for_macro_f1(example):
    pairs = ScoredPairs.of(*example)
    found = _macro_thresholds(pairs)
    singles = every_threshold(pairs)
    best = max((metric(pairs, each, "macro-F1") for each in singles), default=0)
    assert (found is None) == (best == 0)
    if found is None:
        return
    assert metric(pairs, Thresholds(found.shared), "macro-F1") == pytest.approx(best)
    by_label = [
        max(
            each.hits[label] * 2 / max(1, each.true[label] + each.predicted[label])
            for each in map(pairs.counts, singles)
        )
        for label in range(len(pairs.num_true))
    ]
    present = pairs.num_true > 0
    assert metric(pairs, found, "macro-F1") == pytest.approx(100 * np.mean(np.array(by_label)[present]))


def informative(num_rows, num_labels, seed):
    """Scores that tell something, on a scale that differs from label to label; every other label is rare."""
    generator = np.random.default_rng(seed)
    share = np.where(np.arange(num_labels) % 2, 0.01, 0.3)
    true = generator.random((num_rows, num_labels)) < share
    scale = np.linspace(0.3, 1, num_labels)
    scores = scale * (0.5 * true + 0.5 * generator.random((num_rows, num_labels)))
    labels = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, labels, 1).astype(np.float32)
    return labels, ranked, sparse.csr_matrix(true, dtype=np.float32)


def test_thresholds_of_their_own_help_texts_that_they_were_not_chosen_on():
    labels, scores, true = informative(4000, 12, seed=0)
    chosen_on, counted_on = (
        ScoredPairs.of(labels[part], scores[part], true[part]) for part in (slice(2000), slice(2000, None))
    )
    found = macro_f1_thresholds(chosen_on, true[:2000])
    assert len(found.labels) > 0
    assert metric(counted_on, found, "macro-F1") > metric(counted_on, Thresholds(found.shared), "macro-F1") + 1
    micro = micro_f1_threshold(chosen_on)
    assert metric(counted_on, micro, "micro-F1") > metric(counted_on, Thresholds(0.9), "micro-F1")


def test_where_labels_do_not_differ_they_share_a_threshold():
    """Two true texts a label: the best threshold of each is chance."""
    generator = np.random.default_rng(1)
    num_rows, num_labels = 400, 200
    true = np.zeros((num_rows, num_labels))
    for label in range(num_labels):
        true[generator.choice(num_rows, 2, replace=False), label] = 1
    scores = 0.3 * true + 0.7 * generator.random(true.shape)
    labels = np.argsort(-scores, axis=1)[:, :20]
    matrix = sparse.csr_matrix(true, dtype=np.float32)
    pairs = ScoredPairs.of(labels, np.take_along_axis(scores, labels, 1), matrix)
    assert len(macro_f1_thresholds(pairs, matrix).labels) == 0


def test_without_a_hit_there_is_nothing_to_choose():
    pairs = ScoredPairs.of(np.array([[0]]), np.array([[0.5]]), sparse.csr_matrix([[0, 1]]))
    assert micro_f1_threshold(pairs) is None
    assert precision_threshold(pairs, 0.5) is None
    assert macro_f1_thresholds(pairs, sparse.csr_matrix([[0, 1]])) is None


def test_thresholds_are_looked_up_by_label_and_renumbered_with_them():
    thresholds = Thresholds(0.5, np.array([2, 5]), np.array([0.2, 0.9]))
    np.testing.assert_array_equal(thresholds.of(np.array([[0, 2], [5, 7]])), [[0.5, 0.2], [0.9, 0.5]])
    kept = np.array([1, 5, 6])
    smaller = thresholds.renumbered(kept)
    np.testing.assert_array_equal(smaller.of(np.arange(3)), thresholds.of(kept))
    assert not thresholds.above(np.array([-1]), np.array([1.0], np.float32))[0]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_calibration_is_isotonic_regression_at_its_steps_and_keeps_the_order(pairs):
    scores = np.array([score / 20 for score, _ in pairs])
    is_true = np.array([truth for _, truth in pairs])
    found = fit_calibration(scores, is_true)
    fitted = IsotonicRegression().fit(scores, is_true).predict(scores)
    for share in np.unique(fitted):
        in_step = fitted == share
        place = np.argmin(np.abs(found.scores - scores[in_step].mean()))
        assert found.scores[place] == pytest.approx(scores[in_step].mean())
        if found.scores[place] > 0:
            assert found.shares[place] == pytest.approx(share, abs=1e-6)
    rising = found(np.linspace(0, 1, 101))
    assert (np.diff(rising) >= 0).all()
    assert rising.min() >= 0
    assert rising.max() <= 1


def test_calibrated_scores_are_probabilities_of_other_texts_too():
    generator = np.random.default_rng(0)
    scores = generator.random((2, 20_000))
    is_true = generator.random(scores.shape) < scores**3  # far too sure
    found = fit_calibration(scores[0], is_true[0])
    errors = [
        calibration(sparse.csr_matrix(each[None]), sparse.csr_matrix(is_true[1][None].astype(float)))[1]
        for each in (scores[1], found(scores[1]))
    ]
    assert errors[0] > 0.2
    assert errors[1] < 0.02


def test_no_pairs_give_no_calibration():
    assert fit_calibration(np.zeros(0), np.zeros(0, bool)) is None
