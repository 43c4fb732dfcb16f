"""Balanced spherical 2-means over rows of a sparse matrix: the kernel that splits one node of the tree.

Each pass scores every row against the difference of the two centroids, sends the best-scoring `num_left` rows left
(ties by row order) and the others right, and moves the rows that changed sides from one sum to the other.

Same seed, same split, bit for bit, on any number of threads: row values are multiples of 1 / GRID and at most 1, so
float64 sums of up to 2**29 rows are exact, and the order in which threads add them does not matter. Every other sum
runs over one row, or over the columns, in a fixed order.
"""

# numba compiles these functions and mixes Python and numpy scalars, which pyright tells apart.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from cxml.tree.selection import kth_largest, kth_largest_by_digits

GRID = 2.0**24
"""Row values are multiples of 1 / GRID, which float32 holds exactly."""

LEFT, RIGHT, NEITHER = 0, 1, 2
_COLUMN_BLOCK = 4096
_SEED_CANDIDATES = 4
_TRIALS = 2
_TRIAL_PASSES = 2
_SAMPLE_FROM = 2048
_SAMPLE_SHARE = 8


class Rows(NamedTuple):
    """A CSR matrix whose rows have norm 1 (or 0), with columns that only one row has folded into `own`."""

    indptr: np.ndarray
    """int64 [n + 1]."""
    indices: np.ndarray
    """uint16 or int32 [nnz]."""
    values: np.ndarray
    """float32 [nnz], multiples of 1 / GRID."""
    own: np.ndarray
    """float32 [n]: sum of squares of the row's folded columns, a multiple of 1 / GRID."""


class Work(NamedTuple):
    """Scratch memory of one split, reused from node to node."""

    sides: np.ndarray
    """int8 [rows], the result: LEFT or RIGHT."""
    keys: np.ndarray
    """float32 [rows]: how much rather a row goes left."""
    scratch: np.ndarray
    """float32 [rows]."""
    direction: np.ndarray
    """float32 [columns]: the left centroid less the right one."""
    sums: np.ndarray
    """float64 [chunks, columns, 2]: what each chunk of rows adds to the left and the right sum."""


class Limits(NamedTuple):
    """When to stop."""

    max_iterations: int
    tolerance: float


def make_work(rows: int, columns: int, chunks: int) -> Work:
    """Scratch memory for splits of up to so many rows and columns."""
    return Work(
        sides=np.empty(rows, np.int8),
        keys=np.empty(rows, np.float32),
        scratch=np.empty(rows, np.float32),
        direction=np.empty(columns, np.float32),
        sums=np.empty((chunks, columns, 2), np.float64),
    )


@njit(cache=True, nogil=True)
def _mix(seed: int, value: int) -> np.uint64:
    """A pseudo-random uint64 from two integers (the splitmix64 finaliser)."""
    z = np.uint64(seed) + (np.uint64(value) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def seed_of_node(seed: int, start: int, end: int) -> int:
    """A seed, int64, that depends on the tree's and on where the node's rows start and end."""
    return np.int64(_mix(_mix(seed, start), end))


@njit(cache=True, nogil=True)
def _dot(matrix: Rows, row: int, direction: np.ndarray) -> np.float32:
    even, odd = np.float32(0), np.float32(0)
    at, stop = matrix.indptr[row], matrix.indptr[row + 1]
    while at + 1 < stop:  # two sums, so that one addition need not wait for the other
        even += matrix.values[at] * direction[matrix.indices[at]]
        odd += matrix.values[at + 1] * direction[matrix.indices[at + 1]]
        at += 2
    if at < stop:
        even += matrix.values[at] * direction[matrix.indices[at]]
    return even + odd


@njit(cache=True, nogil=True)
def _clear(work: Work, chunk: int, rows: int, columns: int) -> None:
    work.sums[chunk, :columns] = 0
    if chunk == 0:
        work.sides[:rows] = NEITHER


@njit(cache=True, nogil=True)
def _choose_seeds(matrix: Rows, first: int, rows: int, node_seed: int, work: Work, columns: int) -> None:
    """Start from a random row and the least similar to it of a few others; sets `sides` and `direction`."""
    direction = work.direction
    direction[:columns] = 0
    left = np.int64(_mix(node_seed, 0) % np.uint64(rows))
    for at in range(matrix.indptr[first + left], matrix.indptr[first + left + 1]):
        direction[matrix.indices[at]] += matrix.values[at]
    right, least = np.int64(-1), np.float32(np.inf)
    for turn in range(_SEED_CANDIDATES):
        candidate = (left + 1 + np.int64(_mix(node_seed, turn + 1) % np.uint64(rows - 1))) % rows
        similarity = _dot(matrix, first + candidate, direction)
        if similarity < least:
            least, right = similarity, candidate
    for at in range(matrix.indptr[first + right], matrix.indptr[first + right + 1]):
        direction[matrix.indices[at]] -= matrix.values[at]
    for side, row in ((LEFT, left), (RIGHT, right)):
        work.sides[row] = side
        for at in range(matrix.indptr[first + row], matrix.indptr[first + row + 1]):
            work.sums[0, matrix.indices[at], side] += matrix.values[at]


@njit(cache=True, nogil=True)
def _score(matrix: Rows, first: int, start: int, stop: int, scales: np.ndarray, work: Work) -> None:
    for i in range(start, stop):
        key = _dot(matrix, first + i, work.direction)
        if work.sides[i] == LEFT:
            key += matrix.own[first + i] * scales[LEFT]
        elif work.sides[i] == RIGHT:
            key -= matrix.own[first + i] * scales[RIGHT]
        work.keys[i] = key


@njit(cache=True, nogil=True)
def _count_ties(keys: np.ndarray, start: int, stop: int, threshold: float) -> tuple[int, int]:
    above, ties = 0, 0
    for i in range(start, stop):
        above += keys[i] > threshold
        ties += keys[i] == threshold
    return above, ties


@njit(cache=True, nogil=True)
def _move(
    matrix: Rows, first: int, start: int, stop: int, threshold: float, ties_left: int, work: Work, sums: np.ndarray
) -> int:
    """Send rows to their sides, and what changed from sum to sum. Returns how many changed."""
    moved = 0
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
        for at in range(matrix.indptr[first + i], matrix.indptr[first + i + 1]):
            value = np.float64(matrix.values[at])
            sums[matrix.indices[at], side] += value
            if old != NEITHER:
                sums[matrix.indices[at], old] -= value
    return moved


@njit(cache=True, nogil=True)
def _own_masses(matrix: Rows, first: int, start: int, stop: int, sides: np.ndarray) -> tuple[float, float]:
    left, right = 0.0, 0.0
    for i in range(start, stop):
        if sides[i] == LEFT:
            left += matrix.own[first + i]
        else:
            right += matrix.own[first + i]
    return left, right


@njit(cache=True, nogil=True)
def _squares(sums: np.ndarray, start: int, stop: int) -> tuple[float, float]:
    left, right = 0.0, 0.0
    for column in range(start, stop):
        to_left, to_right = 0.0, 0.0
        for chunk in range(len(sums)):
            to_left += sums[chunk, column, LEFT]
            to_right += sums[chunk, column, RIGHT]
        left += to_left * to_left
        right += to_right * to_right
    return left, right


@njit(cache=True, nogil=True)
def _root_of_sums(masses: np.ndarray, squares: np.ndarray) -> float:
    total = 0.0  # not numpy's sum, which a parallel function would spread over threads in no fixed order
    for mass in masses:
        total += mass
    for square in squares:
        total += square
    return np.sqrt(total)


@njit(cache=True, nogil=True)
def _point(sums: np.ndarray, start: int, stop: int, scales: np.ndarray, direction: np.ndarray) -> None:
    for column in range(start, stop):
        to_left, to_right = 0.0, 0.0
        for chunk in range(len(sums)):
            to_left += sums[chunk, column, LEFT]
            to_right += sums[chunk, column, RIGHT]
        direction[column] = to_left * scales[LEFT] - to_right * scales[RIGHT]


def _compile(parallel: bool) -> Callable[..., Any]:
    @njit(cache=True, nogil=True, parallel=parallel)
    def assign(matrix: Rows, first: int, rows: int, num_left: int, scales: np.ndarray, work: Work) -> int:
        """One pass: score, take the best `num_left`, move. Returns how many rows changed sides."""
        chunks = len(work.sums)
        above, ties, moved = np.zeros(chunks, np.int64), np.zeros(chunks, np.int64), np.zeros(chunks, np.int64)
        for chunk in prange(chunks):
            _score(matrix, first, rows * chunk // chunks, rows * (chunk + 1) // chunks, scales, work)
        keys = work.keys[:rows]
        if parallel and rows > 1 << 14:
            threshold = kth_largest_by_digits(keys, num_left, chunks)
        else:
            threshold = kth_largest(keys, num_left, work.scratch)
        for chunk in prange(chunks):
            start, stop = rows * chunk // chunks, rows * (chunk + 1) // chunks
            above[chunk], ties[chunk] = _count_ties(keys, start, stop, threshold)
        room = num_left - above.sum()
        for chunk in prange(chunks):
            start, stop = rows * chunk // chunks, rows * (chunk + 1) // chunks
            ties_left = max(0, room - ties[:chunk].sum())
            moved[chunk] = _move(matrix, first, start, stop, threshold, ties_left, work, work.sums[chunk])
        return moved.sum()

    @njit(cache=True, nogil=True, parallel=parallel)
    def norms(matrix: Rows, first: int, rows: int, columns: int, work: Work) -> tuple[float, float]:
        """Lengths of the two sums of rows."""
        chunks, blocks = len(work.sums), (columns + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK
        masses, squares = np.zeros((chunks, 2)), np.zeros((blocks, 2))
        for chunk in prange(chunks):
            start, stop = rows * chunk // chunks, rows * (chunk + 1) // chunks
            masses[chunk, LEFT], masses[chunk, RIGHT] = _own_masses(matrix, first, start, stop, work.sides)
        for block in prange(blocks):
            start, stop = block * _COLUMN_BLOCK, min(columns, (block + 1) * _COLUMN_BLOCK)
            squares[block, LEFT], squares[block, RIGHT] = _squares(work.sums, start, stop)
        return _root_of_sums(masses[:, LEFT], squares[:, LEFT]), _root_of_sums(masses[:, RIGHT], squares[:, RIGHT])

    @njit(cache=True, nogil=True, parallel=parallel)
    def clear(rows: int, columns: int, work: Work) -> None:
        for chunk in prange(len(work.sums)):
            _clear(work, chunk, rows, columns)

    @njit(cache=True, nogil=True, parallel=parallel)
    def climb(matrix: Rows, first: int, rows: int, num_left: int, columns: int, limits: Limits, work: Work) -> float:
        """Passes from `work.direction` until the mean cosine, which is returned, gains too little."""
        blocks = (columns + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK
        scales = np.ones(2, np.float32)
        mean_cosine = -np.inf
        for _ in range(limits.max_iterations):
            moved = assign(matrix, first, rows, num_left, scales, work)
            left, right = norms(matrix, first, rows, columns, work)
            gain = (left + right) / rows - mean_cosine
            mean_cosine = (left + right) / rows
            scales[LEFT] = 1 / left if left > 0 else 0
            scales[RIGHT] = 1 / right if right > 0 else 0
            for block in prange(blocks):
                start, stop = block * _COLUMN_BLOCK, min(columns, (block + 1) * _COLUMN_BLOCK)
                _point(work.sums, start, stop, scales, work.direction)
            if moved == 0 or gain < limits.tolerance:
                break
        return mean_cosine

    @njit(cache=True, nogil=True)
    def two_means(
        matrix: Rows, first: int, rows: int, num_left: int, columns: int, node_seed: int, limits: Limits, work: Work
    ) -> float:
        """Split rows first..first + rows into `num_left` and the others: `work.sides`. Returns the mean cosine."""
        sample = rows if rows < _SAMPLE_FROM else max(_SAMPLE_FROM // 2, rows // _SAMPLE_SHARE)
        sample_left = min(max(1, num_left * sample // rows), sample - 1)
        trial, best, best_trial = Limits(_TRIAL_PASSES, limits.tolerance), -np.inf, 0
        for turn in range(_TRIALS + 1):
            clear(sample, columns, work)
            last = turn == _TRIALS
            _choose_seeds(
                matrix, first, sample, seed_of_node(node_seed, best_trial if last else turn, 0), work, columns
            )
            mean_cosine = climb(matrix, first, sample, sample_left, columns, limits if last else trial, work)
            if mean_cosine > best:
                best, best_trial = mean_cosine, turn
        if sample < rows:
            clear(rows, columns, work)
            mean_cosine = climb(matrix, first, rows, num_left, columns, limits, work)
        return mean_cosine

    return two_means


two_means_by_all = _compile(parallel=True)
two_means_by_one = _compile(parallel=False)
