"""Bootstrap intervals, groups of labels by frequency, averaged scores and calibration bins.

Oracles: the metrics of the drawn examples, the normal approximation, dense NumPy, and hand-computed cases.
"""

import itertools

import numpy as np
import pytest
from scipy import sparse

from cxml.metrics import (
    by_frequency,
    calibration,
    inverse_propensities,
    mean_scores,
    metric_rows,
    metric_sums,
    resampled_metrics,
    top_labels,
)
from cxml.metrics import interval as middle


def example(seed=0, num_rows=200, num_labels=60):
    generator = np.random.default_rng(seed)
    truth = sparse.random(num_rows, num_labels, 0.06, "csr", rng=generator)
    truth.data[:] = 1
    predicted = np.argsort(-(truth.toarray() + generator.normal(0, 1.0, truth.shape)), axis=1)[:, :8]
    frequency = generator.integers(1, 100, num_labels)
    return predicted, truth, frequency, inverse_propensities(frequency, 500)


def test_resampled_metrics_are_those_of_the_drawn_examples():
    predicted, truth, _, weights = example(num_rows=30)
    ks = (1, 3, 5)
    drawn = resampled_metrics(metric_rows(predicted, truth, ks, weights), ks, 20, seed=3)
    generator = np.random.default_rng(3)
    for number in range(20):
        rows = generator.integers(0, 30, 30)
        expected = metric_sums(predicted[rows], truth[rows], ks, weights).result()
        assert {name: values[number] for name, values in drawn.items()} == pytest.approx(expected)


def test_the_interval_of_precision_is_the_normal_approximation():
    predicted, truth, _, _ = example(num_rows=2000)
    rows = metric_rows(predicted, truth, (1,))
    low, high = middle(resampled_metrics(rows, (1,), 2000)["P@1"])
    hits = rows["P"][:, 0]
    error = 100 * hits.std() / np.sqrt(len(hits))
    assert low == pytest.approx(100 * hits.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(100 * hits.mean() + 1.96 * error, abs=0.2 * error)


def test_no_examples_have_no_interval():
    with pytest.raises(ValueError, match="zero examples"):
        resampled_metrics({"P": np.zeros((0, 1))}, (1,), 10)


@pytest.mark.parametrize("num_groups", [1, 7, 10])
def test_groups_by_frequency_add_up_to_the_metrics(num_groups):
    predicted, truth, frequency, weights = example()
    groups = by_frequency(predicted, truth, frequency, weights, 5, num_groups=num_groups)
    expected = metric_sums(predicted, truth, (5,), weights).result()
    assert sum(group.precision for group in groups) == pytest.approx(expected["P@5"])
    assert sum(group.psp for group in groups) == pytest.approx(expected["PSP@5"])
    assert sum(group.num_true for group in groups) == truth.nnz
    sizes = [group.num_labels for group in groups]
    assert sum(sizes) == 60
    assert max(sizes) - min(sizes) <= 1
    assert all(a.most <= b.least for a, b in itertools.pairwise(groups))


def test_a_groups_recall_is_counted_by_hand():
    truth = sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 1, 0]]))
    predicted = np.array([[1, 3, -1], [2, 0, 1]])
    groups = by_frequency(predicted, truth, np.array([1, 2, 3, 4]), np.ones(4), 2, num_groups=2)
    assert [(group.num_true, group.recall) for group in groups] == [(3, pytest.approx(100 / 3)), (1, 100)]


def test_top_labels_are_a_full_sorts_first():
    scores = sparse.random(50, 40, 0.2, "csr", rng=np.random.default_rng(1))
    dense = scores.toarray()
    for row, labels in enumerate(top_labels(scores, 5)):
        best = [label for label in np.argsort(-dense[row], kind="stable")[:5] if dense[row, label] > 0]
        assert [label for label in labels if label >= 0] == best


def test_the_mean_of_scores_counts_what_is_not_named_as_zero():
    first, second = (sparse.random(9, 7, 0.4, "csr", rng=np.random.default_rng(seed)) for seed in (1, 2))
    mean = mean_scores([first, second])
    np.testing.assert_allclose(mean.toarray(), (first.toarray() + second.toarray()) / 2)
    with pytest.raises(ValueError, match="cannot be averaged"):
        mean_scores([first, second[:3]])
    with pytest.raises(ValueError, match="cannot be averaged"):
        mean_scores([])


def test_scores_drawn_as_probabilities_are_calibrated_and_others_are_off_by_their_excess():
    generator = np.random.default_rng(0)
    chances = generator.random((400, 200))
    truth = sparse.csr_matrix(generator.random(chances.shape) < chances)
    bins, error = calibration(sparse.csr_matrix(chances), truth)
    assert sum(each.count for each in bins) == chances.size
    assert error < 0.01
    assert all(abs(each.mean_score - each.share_true) < 0.03 for each in bins)
    _, error = calibration(sparse.csr_matrix(chances / 2), truth)
    assert error == pytest.approx(0.25, abs=0.01)


def test_calibration_bins_are_counted_by_hand():
    scores = sparse.csr_matrix(np.array([[0.1, 0.11, 1.5], [0, 0.2, 0.95]]))
    truth = sparse.csr_matrix(np.array([[1, 0, 1], [0, 1, 0]]))
    bins, error = calibration(scores, truth)
    found = [(each.low, each.count, each.mean_score, each.share_true) for each in bins]
    expected = [(0.0, 1, 0.1, 1.0), (0.1, 2, 0.155, 0.5), (0.9, 2, 0.975, 0.5)]
    assert found == [pytest.approx(each) for each in expected]
    assert error == pytest.approx((0.9 + 2 * 0.345 + 2 * 0.475) / 5)
