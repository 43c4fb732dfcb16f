"""Build the tree by recursive balanced spherical 2-means: all threads split the largest nodes, then one thread each.

The rows are kept in tree order in memory, so every node is contiguous. When a node's rows fit a core's cache, they are
copied and the subtree is finished there (`cxml.tree.subtree`). The result depends only on the rows and the seed, not on
the number of threads.
"""

# numba compiles some of these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import sparse

from cxml.errors import DataError
from cxml.jit import cached_njit
from cxml.progress import meter
from cxml.tree import two_means as kernels
from cxml.tree.label_tree import LabelTree
from cxml.tree.shape import plan_splits
from cxml.tree.subtree import SUBTREE_ENTRIES, finish_subtree, left_first
from cxml.tree.thread_pool import ThreadPool, default_threads
from cxml.tree.two_means import COLUMN_BLOCK, GRID, Limits, Node, Rows, make_work, seed_of_node, split

_BRANCHES_PER_THREAD = 8


def build_tree(
    features: sparse.csr_matrix | sparse.csr_array,
    level_sizes: Sequence[int],
    *,
    seed: int = 0,
    max_iterations: int = 20,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> LabelTree:
    """Cluster labels into a balanced tree.

    Args:
        features: one row per label, CSR [L, F]; rows are L2-normalised here. Empty rows are allowed.
        level_sizes: clusters of each level, coarse to fine; empty for no clusters.
        seed: random seed; the tree does not depend on the number of threads.
        max_iterations: most passes of one 2-means.
        tolerance: a 2-means stops when the relative gain of its mean cosine in a pass is below this.
        threads: None uses OMP_NUM_THREADS or the cores that this process may run on.

    Raises:
        ConfigError: `level_sizes` do not increase, or exceed the number of labels.
        DataError: a feature is not finite, or there are no labels.
    """
    num_labels = cast(tuple[int, int], features.shape)[0]
    if num_labels == 0:
        raise DataError("label features", "there are no labels", "Give at least one row.")
    plan = plan_splits(num_labels, level_sizes)
    order = initial_order(num_labels, seed)
    if len(plan.splits):
        with ThreadPool(threads or default_threads()) as pool:
            rows, columns = _prepare(features, order, pool)
            _split_all(rows, columns, order, plan.splits, seed, Limits(max_iterations, tolerance), pool)
    return LabelTree(label_order=order, offsets=plan.offsets)


def initial_order(num_labels: int, seed: int) -> np.ndarray:
    """The initial order of the rows, int32 [L]: random, so that a node's first rows are a sample of it."""
    return np.random.default_rng(seed).permutation(num_labels).astype(np.int32)


def relabel_columns(frequency: np.ndarray) -> tuple[np.ndarray, int]:
    """New numbers of the columns, int32 [F], by descending `frequency` int64 [F], and the number of used columns."""
    relabel = np.empty(len(frequency), np.int32)
    relabel[np.argsort(-frequency, kind="stable")] = np.arange(len(frequency), dtype=np.int32)
    return relabel, int(np.count_nonzero(frequency))


def _prepare(features: sparse.csr_matrix | sparse.csr_array, order: np.ndarray, pool: ThreadPool) -> tuple[Rows, int]:
    """Rows in `order`, normalised and rounded to the grid; columns renumbered by frequency, without unused ones."""
    frequency = np.bincount(features.indices, minlength=cast(tuple[int, int], features.shape)[1])
    relabel, columns = relabel_columns(frequency)
    return normalised_rows((features.indptr, features.indices, features.data), order, relabel, pool), columns


def normalised_rows(source: tuple[np.ndarray, ...], order: np.ndarray, relabel: np.ndarray, pool: ThreadPool) -> Rows:
    """The rows `order` of a CSR matrix given by its arrays (indptr, indices, values), prepared for splits.

    Raises:
        DataError: a value is not finite.
    """
    indptr = np.concatenate([[0], np.cumsum(np.diff(source[0])[order], dtype=np.int64)])
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    rows = Rows(indptr, indices, values, np.zeros(len(order), np.float32))
    if not all(pool.run(_copy_normalised, [(*source, order, relabel, rows, *part) for part in pool.parts(len(order))])):
        raise DataError("label features", "a value is not finite", "Check the tf-idf values of the prepared data.")
    return rows


@cached_njit(nogil=True, error_model="numpy")
def _copy_normalised(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, order: np.ndarray, relabel: np.ndarray, rows: Rows,
    start: int, stop: int,
) -> bool:  # fmt: skip
    """Fill rows start..stop. Returns whether all values are finite."""
    finite = True
    for i in range(start, stop):
        first, last, square = indptr[order[i]], indptr[order[i] + 1], 0.0
        for at in range(first, last):
            square += np.float64(values[at]) * np.float64(values[at])
        finite &= np.isfinite(square)
        scale = GRID / np.sqrt(square) if square > 0 else 0.0
        for at in range(first, last):
            to = rows.indptr[i] + at - first
            rows.indices[to] = relabel[indices[at]]
            rows.values[to] = np.rint(values[at] * scale) / GRID
    return finite


def _split_all(
    rows: Rows, columns: int, order: np.ndarray, splits: np.ndarray, seed: int, limits: Limits, pool: ThreadPool
) -> None:
    """Carry out `splits` (each before those inside it), reordering `order` and the rows in place."""
    all_entries = rows.indptr[-1]
    num_branches = _BRANCHES_PER_THREAD * pool.threads if pool.threads > 1 else 1
    # Most entries of a node that one thread splits (slightly more than its share), and of one that it finishes.
    node_entries = max(5 * all_entries // (4 * pool.threads), SUBTREE_ENTRIES)
    branch_entries = max(all_entries // num_branches, SUBTREE_ENTRIES)
    nodes, at = [], 0
    with meter("Splitting clusters of labels", len(splits)) as advance:
        while at < len(splits):
            after = _end_of(splits, at)
            if _entries(rows, splits[at]) <= node_entries:
                nodes.append((splits[at:after],))
                at = after
            else:
                _split_by_all(rows, columns, order, splits[at], seed, limits, pool)
                at += 1
                advance(1)

        def split_node(inside: np.ndarray) -> list[tuple[np.ndarray]]:
            is_branch = _entries(rows, inside[0]) <= branch_entries
            own = inside if is_branch else inside[:1]
            finish_branch(rows, columns, order, own, 0, seed, limits, SUBTREE_ENTRIES)
            advance(len(own))
            return [] if is_branch else _children(inside)

        pool.run_growing(split_node, nodes)


def _entries(rows: Rows, bounds: np.ndarray) -> int:
    """The number of entries of the node of a split (start, middle, end)."""
    return rows.indptr[bounds[2]] - rows.indptr[bounds[0]]


def _end_of(splits: np.ndarray, at: int) -> int:
    """The end of the splits inside the node of split `at`."""
    return int(np.searchsorted(splits[:, 0], splits[at, 2]))


def _children(splits: np.ndarray) -> list[tuple[np.ndarray]]:
    """The splits inside each child of the first split's node, for children that are split."""
    middle = 1 + int(np.searchsorted(splits[1:, 0], splits[0, 1]))
    return [(inside,) for inside in (splits[1:middle], splits[middle:]) if len(inside)]


def _split_by_all(
    rows: Rows, columns: int, order: np.ndarray, bounds: np.ndarray, seed: int, limits: Limits, pool: ThreadPool
) -> None:
    """Like `split` and `reorder`, with the node's rows distributed over the threads."""
    start, middle, end = bounds.tolist()
    work = make_work.py_func(end - start, columns, pool.threads)
    node = Node(rows, start, end - start, middle - start, columns, work)
    alone = node._replace(work=work._replace(sums=work.sums[:1]))
    if kernels.refine_with_sample(alone, seed_of_node(seed, start, end), limits) < node.count:
        kernels.clear(node)
        _refine_with_pool(node, limits, pool)
    reorder(node, order)


def _refine_with_pool(node: Node, limits: Limits, pool: ThreadPool) -> None:
    """Like `two_means.refine`, bit-identical, with rows and columns distributed over the threads."""
    work, parts = node.work, pool.parts(node.count)
    keys = work.keys[: node.count]
    blocks = [(at, min(node.columns, at + COLUMN_BLOCK)) for at in range(0, node.columns, COLUMN_BLOCK)]
    lengths, mean_cosine = np.ones(2), -np.inf
    for _ in range(limits.max_iterations):
        pool.run(kernels.score, [(node, *part, lengths) for part in parts])
        threshold = np.partition(keys, node.count - node.num_left)[node.count - node.num_left]
        counts = np.array(pool.run(kernels.count_keys, [(keys[slice(*part)], threshold) for part in parts]))
        ties_left = node.num_left - counts[:, 0].sum() - np.cumsum(counts[:, 1]) + counts[:, 1]
        tasks = zip(parts, ties_left.tolist(), work.sums, strict=True)
        moved = pool.run(kernels.move, [(node, *part, threshold, ties, sums) for part, ties, sums in tasks])
        squares = np.zeros(2)
        for more in pool.run(kernels.folded_squares, [(node, *part) for part in parts]):
            squares += more
        for more in pool.run(kernels.column_squares, [(work.sums, *block) for block in blocks]):
            squares += more
        lengths = np.sqrt(squares)
        last, mean_cosine = mean_cosine, lengths.sum() / node.count
        pool.run(kernels.set_direction, [(work.sums, *block, lengths, work.direction) for block in blocks])
        if sum(moved) == 0 or mean_cosine - last < limits.tolerance * mean_cosine:
            break


@cached_njit(nogil=True)
def finish_branch(
    rows: Rows, columns: int, order: np.ndarray, splits: np.ndarray, base: int, seed: int, limits: Limits,
    subtree_entries: int,
) -> None:  # fmt: skip
    """Carry out `splits`, the first of which contains all others, with one thread.

    `rows` and `order` start at position `base` of the tree.
    """
    n, at = splits[0, 2] - splits[0, 0], 0
    large = rows.indptr[splits[0, 2] - base] - rows.indptr[splits[0, 0] - base] > subtree_entries
    work = make_work(n if large else 0, columns if large else 0, 1)
    while at < len(splits):
        start, middle, end = splits[at, 0], splits[at, 1], splits[at, 2]
        if rows.indptr[end - base] - rows.indptr[start - base] <= subtree_entries:
            after = np.searchsorted(splits[:, 0], end)
            finish_subtree(rows, columns, order, splits[at:after], base, seed, limits)
            at = after
            continue
        node = Node(rows, start - base, end - start, middle - start, columns, work)
        split(node, seed_of_node(seed, start, end), limits)
        reorder(node, order)
        at += 1


@cached_njit(nogil=True)
def reorder(node: Node, order: np.ndarray) -> None:
    """Move the left rows of a node before the right ones, in `order` and in the matrix; copies the right rows."""
    rows, first, end = node.matrix, node.first, node.first + node.count
    source = np.empty(node.count, np.int64)
    left_first(node, source)
    order[first:end] = order[source]
    lengths = rows.indptr[source + 1] - rows.indptr[source]
    right_entries = lengths[node.num_left :].sum()
    right = Rows(rows.indptr, np.empty(right_entries, np.int32), np.empty(right_entries, np.float32), rows.own)
    to = 0
    for row in source[node.num_left :]:
        to = _copy(rows, rows.indptr[row], rows.indptr[row + 1], right, to)
    to = rows.indptr[first]
    for row in source[: node.num_left]:  # in ascending order, so that no entry is overwritten before it is read
        to = _copy(rows, rows.indptr[row], rows.indptr[row + 1], rows, to)
    _copy(right, 0, right_entries, rows, to)
    for i in range(node.count):
        rows.indptr[first + i + 1] = rows.indptr[first + i] + lengths[i]


@cached_njit(nogil=True)
def _copy(rows: Rows, start: int, stop: int, target: Rows, to: int) -> int:
    """Copy entries start..stop to entry `to` of `target`. Returns the position after them."""
    for at in range(start, stop):
        target.indices[to], target.values[to] = rows.indices[at], rows.values[at]
        to += 1
    return to
