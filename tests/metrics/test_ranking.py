"""Ranking metrics (P, recall, nDCG, PSP, PSnDCG) over any number of true and ranked labels.

Oracles: napkinxc (hypothesis), and hand-computed cases.
"""

import napkinxc.metrics as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.metrics import metric_sums

KS = (1, 3, 5, 8)


def as_csr(rows, num_labels):
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.concatenate([np.sort(np.asarray(row, dtype=np.int64)) for row in [*rows, []]])
    return sparse.csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(rows), num_labels))


def as_padded(rankings, width):
    padded = np.full((len(rankings), width), -1)
    for row, ranking in zip(padded, rankings, strict=True):
        row[: len(ranking)] = ranking
    return padded


def napkinxc_result(truth, rankings, ks, weights):
    """The same metrics by napkinxc, which walks over examples one by one."""
    k = max(ks)
    at_1_to_k = {
        "P": reference.precision_at_k(truth, rankings, k=k),
        "recall": reference.recall_at_k(truth, rankings, k=k),
        "nDCG": reference.ndcg_at_k(truth, rankings, k=k),
        "PSP": reference.psprecision_at_k(truth, rankings, weights, k=k),
        "PSnDCG": reference.psndcg_at_k(truth, rankings, weights, k=k),
    }
    return {f"{name}@{k}": 100 * values[k - 1] for name, values in at_1_to_k.items() for k in ks}


def without_rp(metrics):
    """What napkinxc has too."""
    return {name: value for name, value in metrics.items() if not name.startswith("RP")}


@st.composite
def rankings_and_truth(draw):
    """Examples with any number of true and of ranked labels, none included; at least one true label in all."""
    num_labels = draw(st.integers(2, 30))
    label_sets = st.lists(st.integers(0, num_labels - 1), unique=True, max_size=12)
    truth = draw(st.lists(label_sets, min_size=1, max_size=12))
    truth[0] = truth[0] or [0]
    rankings = [draw(label_sets) for _ in truth]
    weights = draw(st.lists(st.floats(1, 50), min_size=num_labels, max_size=num_labels))
    return truth, rankings, np.array(weights)


@given(rankings_and_truth())
@settings(max_examples=200, deadline=None)
def test_every_metric_equals_napkinxc(case):
    truth, rankings, weights = case
    result = metric_sums(as_padded(rankings, 12), as_csr(truth, len(weights)), KS, weights).result()
    assert without_rp(result) == pytest.approx(napkinxc_result(truth, rankings, KS, weights), abs=1e-9)


def test_a_large_random_case_equals_napkinxc():
    rng = np.random.default_rng(0)
    truth = [rng.choice(500, size=rng.integers(1, 20), replace=False).tolist() for _ in range(2000)]
    rankings = [
        rng.permutation(np.unique([*row[: rng.integers(0, 5)], *rng.choice(500, 6)]))[:8].tolist() for row in truth
    ]
    weights = rng.uniform(1, 30, 500)
    result = metric_sums(as_padded(rankings, 8), as_csr(truth, 500), KS, weights).result()
    assert without_rp(result) == pytest.approx(napkinxc_result(truth, rankings, KS, weights), abs=1e-9)
    assert 5 < result["P@1"] < 95


def test_a_perfect_ranking_scores_100_but_for_precision_beyond_the_true_labels():
    truth = [[4, 2], [0, 1, 3, 5]]
    weights = np.array([3.0, 1.0, 9.0, 2.0, 8.0, 4.0])
    perfect = [sorted(row, key=lambda label: -weights[label]) for row in truth]
    result = metric_sums(as_padded(perfect, 4), as_csr(truth, 6), (1, 4), weights).result()
    names = ("P@1", "RP@1", "RP@4", "nDCG@1", "nDCG@4", "PSP@1", "PSP@4", "PSnDCG@1", "PSnDCG@4", "recall@4")
    expected = dict.fromkeys(names, 100)
    assert result == pytest.approx({**expected, "P@4": 75, "recall@1": 37.5})


@given(rankings_and_truth(), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_sums_over_two_shards_add_up_to_the_whole(case, cut):
    truth, rankings, weights = case
    predicted, labels = as_padded(rankings, 12), as_csr(truth, len(weights))
    whole = metric_sums(predicted, labels, KS, weights)
    first, second = (metric_sums(predicted[part], labels[part], KS, weights) for part in (np.s_[:cut], np.s_[cut:]))
    assert (first + second).result() == pytest.approx(whole.result(), abs=1e-9)
    # and the same through the vectors that an all-reduce adds
    reduced = first.with_vector(first.to_vector() + second.to_vector())
    assert reduced.num_examples == len(truth)
    assert reduced.result() == pytest.approx(whole.result(), abs=1e-9)


def test_missing_columns_count_as_misses():
    truth, weights = as_csr([[0, 1]], 4), np.ones(4)
    short = metric_sums(np.array([[0]]), truth, (1, 3), weights).result()
    padded = metric_sums(np.array([[0, -1, -1]]), truth, (1, 3), weights).result()
    assert short == padded
    assert short["P@3"] == pytest.approx(100 / 3)


def test_none_is_never_a_hit_even_next_to_the_last_label_of_the_row_before():
    truth = as_csr([[3], [0]], 4)
    assert metric_sums(np.array([[3], [-1]]), truth, (1,)).result()["P@1"] == 50


def test_without_propensities_only_plain_metrics_are_reported():
    result = metric_sums(np.array([[0]]), as_csr([[0]], 2), (1,)).result()
    assert result == {"P@1": 100, "RP@1": 100, "recall@1": 100, "nDCG@1": 100}


def test_stored_zeros_and_unsorted_rows_do_not_count_and_the_input_is_left_alone():
    truth = sparse.csr_matrix((np.array([1.0, 0.0, 1.0]), np.array([5, 1, 2]), np.array([0, 3])), shape=(1, 6))
    before = truth.indices.copy(), truth.data.copy()
    result = metric_sums(np.array([[1, 2, 5]]), truth, (1, 3)).result()
    assert result["P@1"] == 0
    assert result["recall@3"] == 100
    np.testing.assert_array_equal(truth.indices, before[0])
    np.testing.assert_array_equal(truth.data, before[1])


def test_examples_without_a_true_label_count_as_misses():
    weights = np.ones(3)
    result = metric_sums(np.array([[0], [0]]), as_csr([[0], []], 3), (1,), weights).result()
    assert result["P@1"] == result["nDCG@1"] == result["recall@1"] == 50
    assert result["PSP@1"] == 100  # divided by the best possible, which the second example has no share in
    nothing = metric_sums(np.array([[0]]), as_csr([[]], 3), (1,), weights).result()
    assert set(nothing.values()) == {0}


@pytest.mark.parametrize(
    ("predicted", "ks", "weights", "problem"),
    [
        ([[0], [1]], (1,), None, "1 rows"),
        ([[4]], (1,), None, "from -1"),
        ([[-2]], (1,), None, "from -1"),
        ([[2, -1, 2]], (1,), None, "twice"),
        ([[0]], (), None, "at least one k"),
        ([[0]], (0, 1), None, "at least one k"),
        ([[0]], (1,), np.ones(3), "4 labels"),
    ],
)
def test_impossible_input_is_refused(predicted, ks, weights, problem):
    with pytest.raises(ValueError, match=problem):
        metric_sums(np.array(predicted), as_csr([[0]], 4), ks, weights)


def test_sums_of_different_metrics_do_not_add():
    truth, weights = as_csr([[0]], 2), np.ones(2)
    plain = metric_sums(np.array([[0]]), truth, (1,))
    for other in (metric_sums(np.array([[0]]), truth, (1, 3)), metric_sums(np.array([[0]]), truth, (1,), weights)):
        with pytest.raises(ValueError, match="cannot be added"):
            plain + other


def test_no_examples_have_no_result():
    with pytest.raises(ValueError, match="zero examples"):
        metric_sums(np.zeros((0, 1), dtype=int), as_csr([], 2), (1,)).result()
