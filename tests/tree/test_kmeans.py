"""Balanced hierarchical k-means: level sizes, determinism over threads, planted clusters, degenerate inputs.

Oracles: planted clusters, the same build on other threads and without folded columns (hypothesis draws features).
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.errors import ConfigError, DataError
from cxml.tree import LabelTree, build_tree, kmeans


def random_features(seed: int, num_labels: int, num_columns: int, density: float = 0.1) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_labels, num_columns)) * (rng.random((num_labels, num_columns)) < density)
    return sparse.csr_matrix(matrix.astype(np.float32))


def same(one: LabelTree, other: LabelTree) -> bool:
    return np.array_equal(one.label_order, other.label_order)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.data())
def test_labels_are_permuted_and_levels_have_their_sizes(seed, num_labels, data):
    sizes = sorted(data.draw(st.sets(st.integers(1, num_labels), max_size=3)))
    density = data.draw(st.sampled_from([0.0, 0.01, 0.1, 1.0]))
    features = random_features(seed, num_labels, data.draw(st.integers(1, 30)), density)
    tree = build_tree(features, sizes, seed=seed)
    assert tree.level_sizes == (*sizes, num_labels)
    assert sorted(tree.label_order.tolist()) == list(range(num_labels))


@pytest.mark.parametrize("subtree_entries", [0, 300, 1 << 18])
def test_same_seed_same_tree_on_any_number_of_threads(monkeypatch, subtree_entries):
    monkeypatch.setattr(kmeans, "SUBTREE_ENTRIES", subtree_entries)
    features = random_features(1, 40000, 50)
    trees = [build_tree(features, [4, 37], seed=7, threads=threads) for threads in (1, 2, 3, 5)]
    assert all(same(tree, trees[0]) for tree in trees)
    assert not same(build_tree(features, [4, 37], seed=8), trees[0])


def test_kernels_from_the_cache_work_in_whatever_order_a_fresh_process_loads_them():
    program = """
import numpy as np
from scipy import sparse
from cxml.tree import build_tree
features = sparse.random(20000, 50, 0.3, format="csr", dtype=np.float32, random_state=0)
for rows, threads in ((500, 1), (20000, 3), (500, 2)):
    print(build_tree(features[:rows], [2, 30], threads=threads).level_sizes)
"""
    for _ in range(2):  # the first may compile, the second loads
        answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert answer.stdout.split("\n")[:3] == ["(2, 30, 500)", "(2, 30, 20000)", "(2, 30, 500)"]


@pytest.mark.parametrize("seed", range(5))
def test_folding_columns_of_single_rows_changes_no_split(monkeypatch, seed):
    # Dense enough that no two keys lie within rounding of each other: sums run in another order there.
    features = random_features(seed, 300, 1000, density=0.02)
    folded = build_tree(features, [8, 64], seed=seed)
    monkeypatch.setattr(kmeans, "SUBTREE_ENTRIES", 0)
    assert same(folded, build_tree(features, [8, 64], seed=seed))


def test_planted_clusters_are_found_again():
    rng = np.random.default_rng(0)
    planted = np.repeat(np.arange(16), 50)
    dense = np.zeros((800, 320), np.float32)
    for label, cluster in enumerate(planted):
        dense[label, cluster * 20 + rng.choice(20, 10, replace=False)] = rng.random(10) + 0.5
    shuffled = rng.permutation(800)
    tree = build_tree(sparse.csr_matrix(dense[shuffled]), [16], seed=3)
    found = planted[shuffled][tree.label_order].reshape(16, 50)
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("sizes", [[], [1], [7]])
def test_labels_without_features_are_spread_like_others(sizes):
    tree = build_tree(sparse.csr_matrix((20, 5), dtype=np.float32), sizes)
    assert tree.level_sizes == (*sizes, 20)


def test_equal_rows_are_split_evenly_and_stay_beside_each_other():
    features = np.zeros((64, 4), np.float32)
    features[np.arange(64), np.arange(64) % 4] = 1
    tree = build_tree(sparse.csr_matrix(features), [4, 8])
    kinds = (tree.label_order % 4).reshape(4, 16)
    assert (kinds == kinds[:, :1]).all()


def test_one_label_makes_a_tree():
    assert build_tree(sparse.csr_matrix(np.ones((1, 3), np.float32)), [1]).level_sizes == (1, 1)


def test_more_clusters_than_labels_are_refused():
    with pytest.raises(ConfigError, match=r"tree\.level_sizes.*the 5 labels.*at most 5"):
        build_tree(random_features(0, 5, 5), [2, 8])


def test_no_labels_and_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="no labels"):
        build_tree(sparse.csr_matrix((0, 5), dtype=np.float32), [])
    features = random_features(0, 9, 9, 1.0)
    features.data[3] = np.inf
    with pytest.raises(DataError, match="not finite"):
        build_tree(features, [2])
