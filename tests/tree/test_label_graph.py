"""Random walks over the label graph and the features that they smooth.

Oracles: the walk written out in Python's integers (hypothesis), its stationary distribution, and a dense product.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.config import TreeConfig
from cxml.tree import LabelGraph, weighted_sums

MASK = (1 << 64) - 1


def random_labels(seed: int, num_texts: int, num_labels: int, share: float = 0.25) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((num_texts, num_labels)) < share).astype(np.float32))


def walk(**settings) -> TreeConfig:
    return TreeConfig(**{"walk_length": 50, "walk_top_k": 5, **settings})


def splitmix64(seed, value):
    """The splitmix64 finaliser, in Python's integers."""
    z = (seed + (value + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def literal_row(dense, label, tree, seed):
    """One label's walk, step by step, with its visits counted in a dictionary."""
    frequency = dense.sum(0)
    verbose = frequency > tree.walk_max_frequency if tree.walk_max_frequency else np.zeros(len(frequency), bool)
    if verbose[label] or frequency[label] == 0:
        return {label: 1.0}
    own, at, visits = splitmix64(seed, label), label, {}
    for step in range(tree.walk_length):
        if (splitmix64(own, 3 * step) >> 11) * 2.0**-53 < tree.walk_restart:
            at = label
        else:
            texts = np.flatnonzero(dense[:, at])
            text = texts[splitmix64(own, 3 * step + 1) % len(texts)]
            others = np.flatnonzero((dense[text] > 0) & ~verbose)
            at = int(others[splitmix64(own, 3 * step + 2) % len(others)])
        visits[at] = visits.get(at, 0) + 1
    best = sorted(visits, key=lambda each: (-visits[each], each))[: tree.walk_top_k]
    norm = sum(visits[each] ** 2 for each in best) ** 0.5
    return {each: visits[each] / norm for each in best}


@settings(max_examples=30)
@given(
    st.integers(0, 1000), st.integers(1, 25), st.integers(1, 12), st.integers(0, 8), st.sampled_from([0.0, 0.4, 0.8])
)
def test_rows_are_those_of_a_walk_written_out(seed, num_texts, num_labels, most, restart):
    labels = random_labels(seed, num_texts, num_labels)
    tree = walk(walk_max_frequency=most, walk_restart=restart)
    rows = LabelGraph.of(labels, tree, seed).rows(np.arange(num_labels))
    assert rows.has_sorted_indices
    for label, row in enumerate(rows):
        expected = literal_row(labels.toarray(), label, tree, seed)
        found = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-6)


def test_long_walks_visit_labels_as_often_as_the_walk_does_in_the_long_run():
    labels = random_labels(1, 60, 15)
    labels = labels[np.diff(labels.indptr) > 0]
    tree = walk(walk_length=200_000, walk_top_k=15, walk_restart=0.3)
    rows = LabelGraph.of(labels, tree, 0).rows(np.arange(15)).toarray()
    dense = labels.toarray().astype(np.float64)
    step = (dense / dense.sum(0)).T @ (dense / dense.sum(1, keepdims=True))
    expected = np.eye(15)
    for _ in range(200):
        expected = 0.3 * np.eye(15) + 0.7 * expected @ step
    np.testing.assert_allclose(rows / rows.sum(1, keepdims=True), expected, atol=0.01)


def test_rows_depend_neither_on_the_threads_nor_on_what_else_is_asked_for():
    labels = random_labels(2, 300, 80, 0.05)
    graph = LabelGraph.of(labels, walk(), 7)
    whole = graph.rows(np.arange(80), threads=3)
    some = np.array([70, 3, 11])
    assert (graph.rows(some, threads=1) != whole[some]).nnz == 0
    assert (LabelGraph.of(labels, walk(), 8).rows(np.arange(80)) != whole).nnz > 0


def test_frequent_labels_are_in_no_row_but_their_own():
    dense = random_labels(3, 50, 10).toarray()
    dense[:, 4] = 1
    rows = LabelGraph.of(sparse.csr_matrix(dense), walk(walk_max_frequency=30), 0).rows(np.arange(10)).toarray()
    assert np.flatnonzero(rows[:, 4]).tolist() == [4]
    assert np.flatnonzero(rows[4]).tolist() == [4]
    assert (np.count_nonzero(rows, axis=1) > 1).sum() > 5


def test_weighted_sums_are_the_dense_product_of_which_the_largest_are_kept():
    rng = np.random.default_rng(0)
    graph = LabelGraph.of(random_labels(4, 100, 30), walk(), 0).rows(np.arange(30))
    features = sparse.csr_matrix((rng.random((30, 40)) * (rng.random((30, 40)) < 0.2)).astype(np.float32))
    expected = graph.toarray().astype(np.float64) @ features.toarray().astype(np.float64)
    for row in expected:
        row[np.argsort(-row, kind="stable")[9:]] = 0
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = weighted_sums(graph, features, 9)
    assert found.nnz <= 30 * 9
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)
