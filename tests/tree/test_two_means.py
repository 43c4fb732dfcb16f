"""Balanced 2-means splits of one node.

Oracle: 2-means in float64 with every centroid computed from scratch.
"""

import numpy as np
import pytest
from scipy import sparse

from cxml.tree import two_means
from cxml.tree.kmeans import _prepare
from cxml.tree.thread_pool import ThreadPool
from cxml.tree.two_means import LEFT, RIGHT, Limits, Node, make_work


def make_node(dense: np.ndarray, num_left: int) -> Node:
    with ThreadPool(1) as pool:
        rows, columns = _prepare(sparse.csr_matrix(dense), np.arange(len(dense), dtype=np.int32), pool)
    return Node(rows, 0, len(dense), num_left, columns, make_work.py_func(len(dense), columns, 1))


def brute_force(dense: np.ndarray, num_left: int, seeds: tuple[int, int], passes: int) -> np.ndarray:
    """Balanced 2-means in float64, every centroid from scratch. Returns which rows go left."""
    rows = dense.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = rows[seeds[0]], rows[seeds[1]]
    for _ in range(passes):
        best = np.argsort(-(rows @ (left - right)), kind="stable")[:num_left]
        is_left = np.isin(np.arange(len(rows)), best)
        left, right = rows[is_left].sum(axis=0), rows[~is_left].sum(axis=0)
        left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    return is_left


@pytest.mark.parametrize("passes", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(8))
def test_passes_from_the_same_seeds_split_as_brute_force_does(seed, passes):
    rng = np.random.default_rng(seed)
    dense = rng.random((int(rng.integers(4, 60)), 6)).astype(np.float32) + 0.01
    num_left = int(rng.integers(1, len(dense)))
    node = make_node(dense, num_left)
    two_means._choose_seeds(node, seed)
    seeds = (int(np.flatnonzero(node.work.sides == LEFT)[0]), int(np.flatnonzero(node.work.sides == RIGHT)[0]))
    two_means.refine(node, Limits(passes, -np.inf))
    expected = brute_force(dense, num_left, seeds, passes)
    assert ((node.work.sides == LEFT) == expected).all()


def test_the_mean_cosine_is_that_of_rows_and_centroids_and_never_falls():
    dense = np.random.default_rng(1).random((200, 30)).astype(np.float32)
    last = 0.0
    for passes in range(1, 12):
        node = make_node(dense, 100)
        two_means._choose_seeds(node, 5)
        mean_cosine = two_means.refine(node, Limits(passes, -np.inf))
        rows = dense / np.linalg.norm(dense, axis=1, keepdims=True)
        sides = node.work.sides
        expected = sum(np.linalg.norm(rows[sides == side].sum(axis=0)) for side in (LEFT, RIGHT)) / 200
        assert mean_cosine == pytest.approx(expected, rel=1e-5)
        assert mean_cosine >= last - 1e-6
        last = mean_cosine


def test_a_split_is_no_worse_than_the_best_of_its_starts_after_their_trial():
    dense = np.random.default_rng(2).random((500, 40)).astype(np.float32) ** 4
    node = make_node(dense, 250)
    two_means.split(node, 3, Limits(20, 1e-4))
    final = two_means.refine(node, Limits(1, 0.0))
    trials = []
    for turn in range(4):
        two_means._choose_seeds(node, two_means.seed_of_node(3, turn, 0))
        trials.append(two_means.refine(node, Limits(2, 0.0)))
    assert final >= max(trials) - 1e-6


def test_a_large_node_starts_from_a_sample_and_ends_balanced():
    dense = np.random.default_rng(3).random((5000, 20)).astype(np.float32)
    node = make_node(dense, 1700)
    assert two_means.sample_size(5000) < 5000
    two_means.split(node, 0, Limits(20, 1e-4))
    assert (node.work.sides == LEFT).sum() == 1700
    assert (node.work.sides == RIGHT).sum() == 3300


def test_ties_go_left_in_row_order():
    node = make_node(np.ones((10, 3), np.float32), 4)
    two_means.split(node, 0, Limits(20, 1e-4))
    assert node.work.sides.tolist() == [LEFT] * 4 + [RIGHT] * 6
