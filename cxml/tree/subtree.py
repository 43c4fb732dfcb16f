"""Finish whole subtrees, one thread each, in the core's cache.

A subtree's rows are copied once. Each split then moves its left rows before its right ones and compacts both parts:
columns are renumbered from zero in order of appearance, and a column that occurs in a single row of the part is folded
into that row's `own` mass, because it can only pull the row to its current side. Most entries near the leaves are of
this kind. Parts are aligned to the end of their parent's entries; entries before them are finished.
"""

# numba compiles these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np

from cxml.jit import cached_njit
from cxml.tree.two_means import GRID, LEFT, Limits, Node, Rows, make_work, seed_of_node, split

SUBTREE_ENTRIES = 1 << 18
"""Most entries of a subtree: 2 MiB, about the size of a core's cache."""


@cached_njit(nogil=True)
def finish_subtree(
    rows: Rows, num_columns: int, order: np.ndarray, splits: np.ndarray, base: int, seed: int, limits: Limits
) -> None:
    """Carry out `splits`, the first of which contains all others, by reordering `order`; `rows` are not changed.

    `rows` and `order` start at position `base` of the tree.
    """
    first, end = splits[0, 0] - base, splits[0, 2] - base
    n, entries = end - first, rows.indptr[end] - rows.indptr[first]
    part = _empty_rows(n, entries)
    spare = _empty_rows(n, entries)
    marks = np.zeros(num_columns, np.int32)
    source = np.arange(first, end)
    columns = np.empty(n, np.int64)  # of the node that starts at this row
    columns[0] = _compact(rows, source, marks, part, 0)
    marks = np.zeros(max(1, columns[0]), np.int32)
    work = make_work(n, max(1, columns[0]), 1)
    for k in range(len(splits)):
        start, middle, stop = splits[k, 0] - base - first, splits[k, 1] - base - first, splits[k, 2] - base - first
        node = Node(part, start, stop - start, middle - start, columns[start], work)
        split(node, seed_of_node(seed, splits[k, 0], splits[k, 2]), limits)
        left_first(node, source)
        order[first + start : first + stop] = order[first + source[: stop - start]]
        columns[start] = _compact(part, source[: middle - start], marks, spare, 0)
        columns[middle] = _compact(part, source[middle - start : stop - start], marks, spare, middle - start)
        _move_to_end(spare, stop - start, part, start, stop)


@cached_njit(nogil=True)
def left_first(node: Node, source: np.ndarray) -> None:
    """Write the node's matrix rows to `source`: the left ones, then the right ones, each in their order."""
    left, right = 0, node.num_left
    for i in range(node.count):
        if node.work.sides[i] == LEFT:
            source[left] = node.first + i
            left += 1
        else:
            source[right] = node.first + i
            right += 1


@cached_njit(nogil=True)
def _compact(rows: Rows, source: np.ndarray, marks: np.ndarray, target: Rows, to: int) -> int:
    """Append rows `source` to the `to` rows of `target`, with only shared columns. Returns their number.

    `marks`, zeros on entry and exit: a column's count, then minus its new number less one.
    """
    for row in source:
        for at in range(rows.indptr[row], rows.indptr[row + 1]):
            marks[rows.indices[at]] += 1
    columns, out = 0, target.indptr[to]
    for i in range(len(source)):
        row = source[i]
        own = np.float64(rows.own[row])
        for at in range(rows.indptr[row], rows.indptr[row + 1]):
            column, value = rows.indices[at], rows.values[at]
            mark = marks[column]
            if mark == 1:
                own += np.rint(np.float64(value) * np.float64(value) * GRID) / GRID
                marks[column] = 0
                continue
            if mark > 0:
                columns += 1
                mark = marks[column] = -columns
            target.indices[out] = -mark - 1
            target.values[out] = value
            out += 1
        target.indptr[to + i + 1] = out
        target.own[to + i] = own
    for row in source:
        for at in range(rows.indptr[row], rows.indptr[row + 1]):
            marks[rows.indices[at]] = 0
    return columns


@cached_njit(nogil=True)
def _move_to_end(spare: Rows, n: int, part: Rows, start: int, stop: int) -> None:
    """Copy the first `n` rows of `spare` to rows start..stop of `part`, aligned to the end of the old entries."""
    entries = spare.indptr[n]
    shift = part.indptr[stop] - entries
    part.indices[shift : shift + entries] = spare.indices[:entries]
    part.values[shift : shift + entries] = spare.values[:entries]
    for i in range(n):
        part.indptr[start + i] = spare.indptr[i] + shift
    part.own[start:stop] = spare.own[:n]


@cached_njit(nogil=True)
def _empty_rows(n: int, entries: int) -> Rows:
    indptr = np.zeros(n + 1, np.int64)
    return Rows(indptr, np.empty(entries, np.int32), np.empty(entries, np.float32), np.empty(n, np.float32))
