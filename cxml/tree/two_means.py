"""Balanced spherical 2-means over rows of a sparse matrix: the kernels that split one node of the tree.

Each pass scores every row against the difference of the two centroids, assigns the `num_left` rows with the best scores
to the left side (ties in row order) and the others to the right, and moves rows that changed sides from one sum to the
other. Nodes are first refined on a sample of their rows, so few passes over all rows are needed.

A split is bit-identical for the same seed on any number of threads. Row values are multiples of 1 / GRID and at most 1,
so float64 sums of up to 2**29 rows are exact, and the order in which threads add them does not matter. Every other sum
runs over one row, or over the columns, in a fixed order.
"""

# numba compiles these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxml.jit import cached_njit
from cxml.tree.kth_largest import kth_largest

GRID = 2.0**24
"""Row values are multiples of 1 / GRID, which float32 holds exactly."""

LEFT, RIGHT, NEITHER = 0, 1, 2
COLUMN_BLOCK = 4096
"""Columns per block of summed squares. It must be constant, because it determines the rounding of sums."""

_SEED_CANDIDATES = 4
_TRIALS = 4
_TRIAL_PASSES = 2
_TRIAL_ROWS = 32
_TRIAL_SHARE = 8
SAMPLE_FROM = 2048
_SAMPLE_SHARE = 8
_SAMPLE_MOST = 1 << 15
_SAMPLE_PATIENCE = 0.1  # passes over a sample are cheap, so they continue down to gains smaller by this factor


class Rows(NamedTuple):
    """A CSR matrix with rows of norm 1 or 0. Columns that occur in one row only are folded into `own`."""

    indptr: np.ndarray
    """int64 [n + 1]."""
    indices: np.ndarray
    """int32 [nnz]."""
    values: np.ndarray
    """float32 [nnz], multiples of 1 / GRID."""
    own: np.ndarray
    """float32 [n]: sum of squares of the row's folded columns, a multiple of 1 / GRID."""


class Work(NamedTuple):
    """Scratch memory of one split, reused from node to node."""

    sides: np.ndarray
    """int8 [rows], the result: LEFT or RIGHT."""
    keys: np.ndarray
    """float32 [rows]: preference of a row for the left side."""
    scratch: np.ndarray
    """float32 [rows]."""
    direction: np.ndarray
    """float32 [columns]: the left centroid minus the right one."""
    sums: np.ndarray
    """float64 [chunks, columns, 2]: contribution of each chunk of rows to the left and right sums."""


class Node(NamedTuple):
    """The rows first..first + count of a matrix, `num_left` of which go left, with scratch memory."""

    matrix: Rows
    first: int
    count: int
    num_left: int
    columns: int
    work: Work


class Limits(NamedTuple):
    """Stopping criteria."""

    max_iterations: int
    """Most passes over the rows."""
    tolerance: float
    """Stop when a pass gains less than this share of the mean cosine."""


@cached_njit(nogil=True)
def make_work(rows: int, columns: int, chunks: int) -> Work:
    """Allocate scratch memory for splits of up to `rows` rows and `columns` columns.

    Python calls `make_work.py_func`, because numba (0.68) cannot return arrays to Python from a cached kernel after
    another cached kernel that calls it was loaded.
    """
    return Work(
        np.empty(rows, np.int8), np.empty(rows, np.float32), np.empty(rows, np.float32),
        np.empty(columns, np.float32), np.empty((chunks, columns, 2), np.float64),
    )  # fmt: skip


@cached_njit(nogil=True)
def splitmix64(seed: int, value: int) -> np.uint64:
    """A pseudo-random uint64 from two integers (the splitmix64 finaliser)."""
    z = np.uint64(seed) + (np.uint64(value) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@cached_njit(nogil=True)
def seed_of_node(seed: int, start: int, end: int) -> int:
    """A seed, int64, from the tree's seed and the bounds of the node's rows."""
    return np.int64(splitmix64(splitmix64(seed, start), end))


@cached_njit(nogil=True)
def split(node: Node, seed: int, limits: Limits) -> None:
    """Choose a side for each row of the node: `node.work.sides`."""
    if refine_with_sample(node, seed, limits) < node.count:
        clear(node)
        refine(node, limits)


@cached_njit(nogil=True)
def refine_with_sample(node: Node, seed: int, limits: Limits) -> int:
    """Compute `direction` from a sample, the first rows, if the node has many.

    The best of a few starts on a part of the sample is refined there, and then on the whole sample. The first rows
    are a random sample, because rows start in random order and splits keep their order. Returns the size of the sample.
    If it is the whole node, the sides are final.
    """
    sample = _first_rows(node, sample_size(node.count))
    few = _first_rows(sample, min(sample.count, max(_TRIAL_ROWS, sample.count // _TRIAL_SHARE)))
    trial, patient = Limits(_TRIAL_PASSES, limits.tolerance), limits.tolerance * _SAMPLE_PATIENCE
    best, best_seed = -np.inf, 0
    for turn in range(_TRIALS):
        trial_seed = seed_of_node(seed, turn, 0)
        _choose_seeds(few, trial_seed)
        mean_cosine = refine(few, trial)
        if mean_cosine > best:
            best, best_seed = mean_cosine, trial_seed
    _choose_seeds(few, best_seed)
    if few.count < sample.count:
        refine(few, Limits(limits.max_iterations, patient))
        sample.work.sides[few.count : sample.count] = NEITHER
    refine(sample, Limits(limits.max_iterations, patient if sample.count < node.count else limits.tolerance))
    return sample.count


@cached_njit(nogil=True)
def _first_rows(node: Node, count: int) -> Node:
    num_left = min(max(1, node.num_left * count // node.count), count - 1)
    return Node(node.matrix, node.first, count, num_left, node.columns, node.work)


@cached_njit(nogil=True)
def sample_size(count: int) -> int:
    """The number of rows of a node that choose the start."""
    return count if count < SAMPLE_FROM else min(max(SAMPLE_FROM // 2, count // _SAMPLE_SHARE), _SAMPLE_MOST)


@cached_njit(nogil=True)
def refine(node: Node, limits: Limits) -> float:
    """Run passes from `direction` on until the gain is too small. Returns the mean cosine of rows and centroids."""
    work, columns = node.work, node.columns
    keys, sums = work.keys[: node.count], work.sums[0]
    lengths, mean_cosine = np.ones(2), -np.inf
    for _ in range(limits.max_iterations):
        score(node, 0, node.count, lengths)
        threshold = kth_largest(keys, node.num_left, work.scratch)
        above, _ties = count_keys(keys, threshold)
        moved = move(node, 0, node.count, threshold, node.num_left - above, sums)
        left, right = folded_squares(node, 0, node.count)
        for start in range(0, columns, COLUMN_BLOCK):
            more_left, more_right = column_squares(work.sums, start, min(columns, start + COLUMN_BLOCK))
            left, right = left + more_left, right + more_right
        lengths[LEFT], lengths[RIGHT] = np.sqrt(left), np.sqrt(right)
        last, mean_cosine = mean_cosine, (lengths[LEFT] + lengths[RIGHT]) / node.count
        set_direction(work.sums, 0, columns, lengths, work.direction)
        if moved == 0 or mean_cosine - last < limits.tolerance * mean_cosine:
            break
    return mean_cosine


@cached_njit(nogil=True)
def clear(node: Node) -> None:
    """Remove the node's rows from both sums."""
    node.work.sums[:, : node.columns] = 0
    node.work.sides[: node.count] = NEITHER


@cached_njit(nogil=True)
def _choose_seeds(node: Node, seed: int) -> None:
    """Start from a random row and the least similar of a few others."""
    matrix, work = node.matrix, node.work
    clear(node)
    work.direction[: node.columns] = 0
    left = np.int64(splitmix64(seed, 0) % np.uint64(node.count))
    _add_seed(node, left, LEFT, 1)
    right, least = np.int64(-1), np.float32(np.inf)
    for turn in range(_SEED_CANDIDATES):
        candidate = (left + 1 + np.int64(splitmix64(seed, turn + 1) % np.uint64(node.count - 1))) % node.count
        similarity = _dot(matrix, node.first + candidate, work.direction)
        if similarity < least:
            least, right = similarity, candidate
    _add_seed(node, right, RIGHT, -1)


@cached_njit(nogil=True)
def _add_seed(node: Node, row: int, side: int, sign: int) -> None:
    matrix, work = node.matrix, node.work
    work.sides[row] = side
    for at in range(matrix.indptr[node.first + row], matrix.indptr[node.first + row + 1]):
        work.direction[matrix.indices[at]] += sign * matrix.values[at]
        work.sums[0, matrix.indices[at], side] += matrix.values[at]


@cached_njit(nogil=True)
def score(node: Node, start: int, stop: int, lengths: np.ndarray) -> None:
    """Set the keys of the node's rows start..stop; `lengths` are the lengths of the two sums."""
    matrix, work = node.matrix, node.work
    scales = _inverse(lengths).astype(np.float32)
    for i in range(start, stop):
        key = _dot(matrix, node.first + i, work.direction)
        if work.sides[i] == LEFT:
            key += matrix.own[node.first + i] * scales[LEFT]
        elif work.sides[i] == RIGHT:
            key -= matrix.own[node.first + i] * scales[RIGHT]
        work.keys[i] = key


@cached_njit(nogil=True)
def _dot(matrix: Rows, row: int, direction: np.ndarray) -> np.float32:
    even, odd = np.float32(0), np.float32(0)
    at, stop = matrix.indptr[row], matrix.indptr[row + 1]
    while at + 1 < stop:  # two independent sums for instruction-level parallelism
        even += matrix.values[at] * direction[matrix.indices[at]]
        odd += matrix.values[at + 1] * direction[matrix.indices[at + 1]]
        at += 2
    if at < stop:
        even += matrix.values[at] * direction[matrix.indices[at]]
    return even + odd


@cached_njit(nogil=True)
def count_keys(keys: np.ndarray, threshold: float) -> tuple[int, int]:
    """The numbers of keys above `threshold` and equal to it."""
    above, ties = 0, 0
    for key in keys:
        above += key > threshold
        ties += key == threshold
    return above, ties


@cached_njit(nogil=True)
def move(node: Node, start: int, stop: int, threshold: float, ties_left: int, sums: np.ndarray) -> int:
    """Assign rows start..stop to sides, and move changed rows between the sums. Returns the number of changes.

    The first `ties_left` rows whose key equals `threshold` go left.
    """
    matrix, work, moved = node.matrix, node.work, 0
    for i in range(start, stop):
        side = LEFT if work.keys[i] > threshold else RIGHT
        if work.keys[i] == threshold and ties_left > 0:
            side = LEFT
            ties_left -= 1
        old = work.sides[i]
        if side == old:
            continue
        moved += 1
        work.sides[i] = side
        for at in range(matrix.indptr[node.first + i], matrix.indptr[node.first + i + 1]):
            value = np.float64(matrix.values[at])
            sums[matrix.indices[at], side] += value
            if old != NEITHER:
                sums[matrix.indices[at], old] -= value
    return moved


@cached_njit(nogil=True)
def folded_squares(node: Node, start: int, stop: int) -> tuple[float, float]:
    """Contribution of the folded columns of rows start..stop to the squared length of each sum."""
    left, right = 0.0, 0.0
    for i in range(start, stop):
        if node.work.sides[i] == LEFT:
            left += node.matrix.own[node.first + i]
        else:
            right += node.matrix.own[node.first + i]
    return left, right


@cached_njit(nogil=True)
def column_squares(sums: np.ndarray, start: int, stop: int) -> tuple[float, float]:
    """Contribution of columns start..stop to the squared length of each sum."""
    left, right = 0.0, 0.0
    for column in range(start, stop):
        to_left, to_right = 0.0, 0.0
        for chunk in range(len(sums)):
            to_left += sums[chunk, column, LEFT]
            to_right += sums[chunk, column, RIGHT]
        left += to_left * to_left
        right += to_right * to_right
    return left, right


@cached_njit(nogil=True)
def set_direction(sums: np.ndarray, start: int, stop: int, lengths: np.ndarray, direction: np.ndarray) -> None:
    """Set columns start..stop of `direction` from the sums and their lengths."""
    scales = _inverse(lengths)
    for column in range(start, stop):
        to_left, to_right = 0.0, 0.0
        for chunk in range(len(sums)):
            to_left += sums[chunk, column, LEFT]
            to_right += sums[chunk, column, RIGHT]
        direction[column] = to_left * scales[LEFT] - to_right * scales[RIGHT]


@cached_njit(nogil=True)
def _inverse(lengths: np.ndarray) -> np.ndarray:
    """The inverse of each length; 0 for a sum of empty rows."""
    scales = np.zeros(2)
    for side in range(2):
        if lengths[side] > 0:
            scales[side] = 1 / lengths[side]
    return scales
