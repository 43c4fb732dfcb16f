"""The label tree by recursive balanced spherical 2-means: large nodes by all threads, then subtrees by one thread each.

The rows are kept in tree order in memory, so that every node is a contiguous run of them. Once a node's rows fit a
core's cache they are copied and its whole subtree is finished there; each split below relabels its columns from zero,
and folds columns that a single row has into that row, which shrinks the work towards the leaves.
What happens to a node depends on its rows and the seed alone, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numba import get_num_threads, njit, prange
from scipy import sparse

from cxml.errors import DataError
from cxml.tree.label_tree import LabelTree
from cxml.tree.plan import plan_splits
from cxml.tree.subtree import SUBTREE_ENTRIES, finish_subtrees
from cxml.tree.two_means import GRID, LEFT, Limits, Rows, make_work, seed_of_node, two_means_by_all


def build_tree(
    features: sparse.csr_matrix | sparse.csr_array,
    level_sizes: Sequence[int],
    *,
    seed: int = 0,
    max_iterations: int = 20,
    tolerance: float = 1e-4,
) -> LabelTree:
    """Cluster labels into a balanced tree.

    Args:
        features: one row per label, CSR [L, F]; rows are L2-normalised here. Empty rows are allowed.
        level_sizes: clusters of each level, coarse to fine; empty for no clusters.
        seed: same seed, same tree, whatever the number of threads (numba's `set_num_threads`).
        max_iterations: most passes of one 2-means.
        tolerance: a 2-means stops when its mean cosine gains less than this in a pass.

    Raises:
        ConfigError: `level_sizes` do not rise, or ask for more clusters than there are labels.
        DataError: a feature is not finite, or there are no labels.
    """
    num_labels = cast(tuple[int, int], features.shape)[0]
    if num_labels == 0:
        raise DataError("label features", "there are no labels", "Give at least one row.")
    plan = plan_splits(num_labels, level_sizes)
    order = np.random.default_rng(seed).permutation(num_labels).astype(np.int32)
    if len(plan.splits):
        rows, columns = _prepare(features, order)
        _split_all(rows, columns, order, plan.splits, seed, Limits(max_iterations, tolerance))
    return LabelTree(label_order=order, offsets=plan.offsets)


def _prepare(features: sparse.csr_matrix | sparse.csr_array, order: np.ndarray) -> tuple[Rows, int]:
    """Rows in `order`, normalised, on the grid; columns relabelled by falling frequency, unused ones gone."""
    indptr = np.asarray(features.indptr, np.int64)
    frequency = np.bincount(features.indices, minlength=cast(tuple[int, int], features.shape)[1])
    by_frequency = np.argsort(-frequency, kind="stable")
    relabel = np.empty(len(frequency), np.int32)
    relabel[by_frequency] = np.arange(len(frequency), dtype=np.int32)
    lengths = np.diff(indptr)[order]
    new_indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices, values = np.empty(new_indptr[-1], np.int32), np.empty(new_indptr[-1], np.float32)
    if not _copy_normalised(indptr, features.indices, features.data, order, relabel, new_indptr, indices, values):
        raise DataError("label features", "a value is not finite", "Check the tf-idf values of the prepared data.")
    return Rows(new_indptr, indices, values, np.zeros(len(order), np.float32)), int(np.count_nonzero(frequency))


@njit(cache=True, nogil=True, parallel=True)
def _copy_normalised(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    order: np.ndarray,
    relabel: np.ndarray,
    to_indptr: np.ndarray,
    to_indices: np.ndarray,
    to_values: np.ndarray,
) -> np.bool:
    finite = np.ones(len(order), np.bool_)
    for i in prange(len(order)):
        start, stop = indptr[order[i]], indptr[order[i] + 1]
        square = 0.0
        for at in range(start, stop):
            square += np.float64(values[at]) ** 2
        finite[i] = np.isfinite(square)
        scale = GRID / np.sqrt(square) if square > 0 else 0.0
        for at in range(start, stop):
            to = to_indptr[i] + at - start
            to_indices[to] = relabel[indices[at]]
            to_values[to] = np.rint(values[at] * scale) / GRID
    return finite.all()


def _split_all(rows: Rows, columns: int, order: np.ndarray, splits: np.ndarray, seed: int, limits: Limits) -> None:
    """Carry out `splits` (each before those inside it), reordering `order` and the rows in place."""
    work = make_work(len(order), columns, get_num_threads())
    spare = Rows(*(np.empty_like(part) for part in rows))
    subtrees = []
    at = 0
    while at < len(splits):
        start, middle, end = splits[at]
        after = int(np.searchsorted(splits[:, 0], end))
        if rows.indptr[end] - rows.indptr[start] <= SUBTREE_ENTRIES:
            subtrees.append((at, after))
            at = after
        else:
            node_seed = seed_of_node(seed, start, end)
            two_means_by_all(rows, start, end - start, middle - start, columns, node_seed, limits, work)
            _reorder(rows, order, start, end, middle, work.sides, spare, len(work.sums))
            at += 1
    del work, spare
    if subtrees:
        finish_subtrees(rows, columns, order, splits, np.array(subtrees, np.int64), seed, limits)


@njit(cache=True, nogil=True, parallel=True)
def _reorder(
    rows: Rows, order: np.ndarray, start: int, end: int, middle: int, sides: np.ndarray, spare: Rows, chunks: int
) -> None:
    """Bring the left rows of start..end before the right ones, each side in its old order."""
    n = end - start
    targets = np.empty(n + 1, np.int64)
    source = np.empty(n, np.int64)
    left, right = 0, middle - start
    for i in range(n):
        if sides[i] == LEFT:
            source[left] = start + i
            left += 1
        else:
            source[right] = start + i
            right += 1
    targets[0] = rows.indptr[start]
    for i in range(n):
        targets[i + 1] = targets[i] + rows.indptr[source[i] + 1] - rows.indptr[source[i]]
    new_order = np.empty(n, order.dtype)
    for chunk in prange(chunks):
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            new_order[i] = order[source[i]]
            _copy_row(rows, source[i], spare, targets[i])
    first, last = targets[0], targets[n]
    for chunk in prange(chunks):
        _copy_entries(
            spare, rows, first + (last - first) * chunk // chunks, first + (last - first) * (chunk + 1) // chunks
        )
    rows.indptr[start : end + 1] = targets
    order[start:end] = new_order


@njit(cache=True, nogil=True)
def _copy_row(rows: Rows, row: int, target: Rows, to: int) -> None:
    for at in range(rows.indptr[row], rows.indptr[row + 1]):
        target.indices[to] = rows.indices[at]
        target.values[to] = rows.values[at]
        to += 1


@njit(cache=True, nogil=True)
def _copy_entries(source: Rows, target: Rows, start: int, stop: int) -> None:
    target.indices[start:stop] = source.indices[start:stop]
    target.values[start:stop] = source.values[start:stop]
