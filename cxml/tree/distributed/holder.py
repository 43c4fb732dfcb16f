"""One worker: makes parts, holds rows, takes part in splits, finishes branches.

A worker holds the rows of a range of starting positions. Splits keep the order of the rows, so in every node the rows
are ordered by worker, and a split by all workers equals a split by one process. Dense sums over the columns never pass
through the driver: each worker owns a slice of the columns, adds up the sums of all workers for it, and sends out the
direction of the slice.
"""

# numba's kernels accept numpy scalars, which pyright distinguishes from Python's.
# pyright: reportArgumentType=false

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import sparse

from cxml.tree import two_means as kernels
from cxml.tree.distributed.journal import BuildJournal, Kind
from cxml.tree.distributed.parts import Job, PartMaker
from cxml.tree.kmeans import finish_branch, initial_order, normalised_rows, reorder
from cxml.tree.kth_largest import ordered_bits
from cxml.tree.subtree import SUBTREE_ENTRIES, left_first
from cxml.tree.thread_pool import ThreadPool
from cxml.tree.two_means import COLUMN_BLOCK, LEFT, Limits, Node, Rows, make_work

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows sent between workers: lengths, columns, values."""


def column_slices(num_columns: int, count: int) -> list[tuple[int, int]]:
    """The columns of each of `count` workers, in whole blocks so that squares are summed as in one process."""
    blocks = -(-num_columns // COLUMN_BLOCK)
    cuts = [min(num_columns, blocks * i // count * COLUMN_BLOCK) for i in range(count + 1)]
    return list(pairwise(cuts))


class RowHolder:
    """A worker; its rows are those of the starting positions `low`..`high`."""

    def __init__(self, job: Job, low: int, high: int) -> None:
        self._job, self._low, self._high = job, low, high
        self._limits = Limits(job.settings.max_iterations, job.settings.tolerance)
        self._journal = BuildJournal(job.tree_url)
        self._parts = PartMaker(job)
        self._source: sparse.csr_matrix | None = None

    def make_part(self, kind: Kind, part: int) -> None:
        """Make a part of the label features and keep it."""
        self._parts.make(kind, part)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Read this worker's rows from their parts, and keep them for `arrange`.

        Returns:
            Rows that have each column, int64 [columns], and entries of each row, int64 [n].
        """
        self._parts = PartMaker(self._job)  # frees the data of the previous one
        self._source = self._parts.read(self._low, self._high)
        return np.bincount(self._source.indices, minlength=self._job.num_columns), np.diff(self._source.indptr)

    def arrange(self, relabel: np.ndarray, num_columns: int, arrangement: np.ndarray, num_workers: int) -> None:
        """Reorder the rows by `arrangement`, int32 [n], the result of the splits so far."""
        source = self._parts.read(self._low, self._high) if self._source is None else self._source
        with ThreadPool(1) as pool:
            arrays = source.indptr, source.indices, source.data
            self._rows = normalised_rows(arrays, np.array(arrangement), np.array(relabel), pool)
        self._order = initial_order(self._job.num_labels, self._job.seed)[self._low : self._high][arrangement]
        self._columns, self._slices = num_columns, column_slices(num_columns, num_workers)
        self._work = make_work.py_func(len(arrangement), num_columns, 1)
        self._source = None

    def copy_rows(self, first: int, count: int) -> Piece:
        """Some of this worker's rows, for another one."""
        bounds = self._rows.indptr[first : first + count + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        return np.diff(bounds), self._rows.indices[entries], self._rows.values[entries]

    def choose_start(self, count: int, num_left: int, seed: int, *pieces: Piece) -> list[np.ndarray] | np.ndarray:
        """Climb with the first rows of a node of `count` rows. Returns the direction, whole or in slices."""
        sample = _join(pieces)
        work = make_work.py_func(len(sample.own), self._columns, 1)
        kernels.refine_with_sample(Node(sample, 0, count, num_left, self._columns, work), seed, self._limits)
        slices = [work.direction[start:stop] for start, stop in self._slices]
        return slices if len(slices) > 1 else slices[0]

    def begin(self, first: int, count: int) -> None:
        """Start with the node whose rows here are first..first + count, not assigned to sides yet."""
        self._node = Node(self._rows, first, count, 0, self._columns, self._work)
        kernels.clear(self._node)

    def score(self, lengths: np.ndarray, *direction: np.ndarray) -> np.ndarray:
        """Score the node's rows. Returns the number of keys with each upper half, int64 [2^16]."""
        np.concatenate(direction, out=self._work.direction)
        kernels.score(self._node, 0, self._node.count, np.array(lengths))
        self._bits = ordered_bits(self._work.keys[: self._node.count])
        return np.bincount(self._bits >> 16, minlength=1 << 16)

    def count_lower_halves(self, upper: int) -> np.ndarray:
        """The number of keys with each lower half among those with this upper half, int64 [2^16]."""
        return np.bincount(self._bits[self._bits >> 16 == upper] & 0xFFFF, minlength=1 << 16)

    def move(self, threshold: np.float32, ties_left: int) -> list[int | np.ndarray]:
        """Assign the rows to sides. Returns the number of changes, then this worker's sums in the workers' slices."""
        sums = self._work.sums[0]
        moved = kernels.move(self._node, 0, self._node.count, threshold, ties_left, sums)
        return [moved, *(sums[start:stop] for start, stop in self._slices)]

    def reduce_sums(self, *sums: np.ndarray) -> list[tuple[float, float]]:
        """Add up the sums of all workers in this slice. Returns the squared lengths of its blocks of columns."""
        stop = len(sums[0])
        self._total = np.zeros((1, stop, 2))
        for more in sums:
            self._total[0] += more
        blocks = [(at, min(stop, at + COLUMN_BLOCK)) for at in range(0, stop, COLUMN_BLOCK)]
        return [kernels.column_squares(self._total, *block) for block in blocks]

    def direction_slice(self, lengths: np.ndarray) -> np.ndarray:
        """The direction in this worker's slice."""
        direction = np.empty(len(self._total[0]), np.float32)
        kernels.set_direction(self._total, 0, len(direction), np.array(lengths), direction)
        return direction

    def propose(self) -> tuple[np.ndarray, int]:
        """The node's labels here, int32, left ones first, and the number of left ones, without moving rows."""
        num_left = int(np.count_nonzero(self._work.sides[: self._node.count] == LEFT))
        self._node = self._node._replace(num_left=num_left)
        source = np.empty(self._node.count, np.int64)
        left_first(self._node, source)
        return self._order[source], num_left

    def reorder(self) -> None:
        """Move the left rows before the right ones, as proposed."""
        reorder(self._node, self._order)

    def finish(self, splits: np.ndarray, order: np.ndarray, *pieces: Piece) -> np.ndarray:
        """Carry out all splits of a branch. Returns and stores its labels in their final order."""
        start, _, end = splits[0].tolist()
        order = np.array(order)
        rows = _join(pieces)
        finish_branch(
            rows, self._columns, order, np.array(splits), start, self._job.seed, self._limits, SUBTREE_ENTRIES
        )
        self._journal.save_branch(start, end, order)
        return order


def _join(pieces: list[Piece] | tuple[Piece, ...]) -> Rows:
    """Concatenate the rows of several pieces, as a copy."""
    lengths, indices, values = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Rows(indptr, indices, values, np.zeros(len(lengths), np.float32))
