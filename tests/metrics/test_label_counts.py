"""Micro and macro F1, RP@k, R-precision and the usual groups of labels.

Oracles: scikit-learn, and the formulas of Chalkidis et al. 2019 written as loops (hypothesis).
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import f1_score, precision_score, recall_score

from cxml.metrics import (
    USUAL_GROUPS,
    by_group,
    label_counts,
    metric_sums,
    r_precision,
    usual_groups,
    within_group,
)


@st.composite
def decided(draw):
    """Rankings int [N, K] with gaps, and true labels [N, L]."""
    num_rows, num_labels = draw(st.integers(1, 12)), draw(st.integers(2, 8))  # of one, scikit-learn counts both classes
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    true = generator.random((num_rows, num_labels)) < draw(st.floats(0, 0.8))
    width = draw(st.integers(1, num_labels))
    ranked = np.argsort(generator.random((num_rows, num_labels)), axis=1)[:, :width]
    return np.where(generator.random(ranked.shape) < 0.7, ranked, -1), sparse.csr_matrix(true, dtype=np.float32)


def as_indicators(ranked, num_labels):
    dense = np.zeros((len(ranked), num_labels), int)
    rows, places = np.nonzero(ranked >= 0)
    dense[rows, ranked[rows, places]] = 1
    return dense


@given(decided())
@settings(max_examples=60, deadline=None)
def test_micro_and_macro_metrics_are_scikit_learns_over_the_labels_that_occur(example):
    ranked, true = example
    truth, predicted = (true.toarray() > 0).astype(int), as_indicators(ranked, true.shape[1])
    found = label_counts(ranked, true).metrics()
    occurring = np.flatnonzero(truth.sum(0)).tolist()
    for name, score in (("P", precision_score), ("R", recall_score), ("F1", f1_score)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            micro = score(truth, predicted, average="micro", zero_division=0)
            macro = score(truth, predicted, average="macro", labels=occurring, zero_division=0) if occurring else 0
        assert found[f"micro-{name}"] == pytest.approx(100 * micro)
        assert found[f"macro-{name}"] == pytest.approx(100 * macro)


@given(decided(), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_counts_of_disjoint_texts_add_up(example, at):
    ranked, true = example
    whole = label_counts(ranked, true)
    joined = label_counts(ranked[:at], true[:at]) + label_counts(ranked[at:], true[at:])
    for name in ("true", "predicted", "hits"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@given(decided(), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_rp_at_k_and_r_precision_follow_their_formulas(example, k):
    """Chalkidis et al. 2019: hits in the first k places by min(k, R); R-precision: hits in the first R places by R."""
    ranked, true = example
    rp, r_precisions = [], []
    for row, own in zip(ranked.tolist(), true.toarray() > 0, strict=True):
        num_true = int(own.sum())
        hits = [label >= 0 and bool(own[label]) for label in row]
        rp.append(sum(hits[:k]) / min(k, num_true) if num_true else 0)
        r_precisions.append(sum(hits[:num_true]) / num_true if num_true else 0)
    assert metric_sums(ranked, true, [k]).result()[f"RP@{k}"] == pytest.approx(100 * np.mean(rp))
    assert r_precision(ranked, true) == pytest.approx(100 * np.mean(r_precisions))


def test_the_usual_groups_are_cut_above_50_texts_and_above_none():
    groups = usual_groups(np.array([0, 1, 50, 51, 5000]))
    assert [USUAL_GROUPS[group] for group in groups] == ["zero-shot", "few", "few", "frequent", "frequent"]


@given(decided(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_within_a_group_only_its_labels_are_ranked_and_true(example, seed):
    ranked, true = example
    inside = np.random.default_rng(seed).random(true.shape[1]) < 0.5
    own_ranked, own_true = within_group(ranked, true, inside)
    rows = [row for row, own in enumerate(true.toarray() > 0) if (own & inside).any()]
    assert len(own_ranked) == len(rows)
    for found, truth, row in zip(own_ranked.tolist(), own_true.toarray() > 0, rows, strict=True):
        expected = [label for label in ranked[row].tolist() if label >= 0 and inside[label]]
        assert found == expected + [-1] * (ranked.shape[1] - len(expected))
        np.testing.assert_array_equal(truth, (true.toarray()[row] > 0) & inside)


def test_groups_without_labels_are_left_out_and_the_others_add_up():
    ranked, true = np.array([[0, 2], [1, 0]]), sparse.csr_matrix([[1, 0, 1], [0, 1, 0]])
    frequency = np.array([60, 70, 3])
    groups = by_group(ranked, true, frequency, np.ones(3), 2, group=usual_groups(frequency))
    assert list(groups) == [0, 1]
    assert (groups[0].least, groups[0].most, groups[0].num_labels, groups[0].num_true) == (60, 70, 2, 2)
    total = metric_sums(ranked, true, [2]).result()["P@2"]
    assert sum(group.precision for group in groups.values()) == pytest.approx(total)
