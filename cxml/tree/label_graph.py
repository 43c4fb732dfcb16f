"""The label graph of co-occurring labels from random walks with restart, and features smoothed over it.

A step of a label's walk returns to that label with the restart probability. Otherwise it moves from the current label
to a random text of it, and to a random label of that text. The most visited labels form the label's row of the graph.
This follows ECLARE (Mittal et al. 2021), as CascadeXML uses it for its label features (section 3).

Each label's walk has its own random seed, so it does not depend on the worker.
"""

# numba compiles some of these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from scipy import sparse

from cxml.config import TreeConfig
from cxml.jit import cached_njit
from cxml.tree.label_features import keep_largest
from cxml.tree.thread_pool import ThreadPool, default_threads
from cxml.tree.two_means import splitmix64

_PARTS_PER_THREAD = 4


class _Paths(NamedTuple):
    """Labels of each text, without texts that have too many, and texts of each label."""

    label_starts: np.ndarray
    labels: np.ndarray
    text_starts: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class LabelGraph:
    """Random walks over the labels of a data set."""

    settings: TreeConfig
    seed: int
    num_labels: int
    paths: _Paths

    @classmethod
    def of(cls, labels: sparse.csr_matrix, settings: TreeConfig, seed: int) -> LabelGraph:
        """Prepare the walks; `labels` CSR [N, L] has the labels of each text. Takes 8 bytes per label of a text."""
        num_labels = cast(tuple[int, int], labels.shape)[1]
        frequency = np.bincount(labels.indices, minlength=num_labels)
        limit = settings.walk_max_frequency or len(labels.indices)
        kept = (frequency <= limit)[labels.indices]
        starts = np.concatenate([[0], np.cumsum(kept)])[labels.indptr]
        ones = np.ones(int(starts[-1]), np.int8)
        allowed = sparse.csr_matrix((ones, labels.indices[kept], starts), labels.shape)
        by_label = sparse.csc_matrix(allowed)
        arrays = allowed.indptr, allowed.indices, by_label.indptr, by_label.indices
        starts_and_values = [array.astype(np.int64 if i % 2 == 0 else np.int32) for i, array in enumerate(arrays)]
        return cls(settings, seed, num_labels, _Paths(*starts_and_values))

    def rows(self, labels: np.ndarray, *, threads: int | None = None) -> sparse.csr_matrix:
        """The rows of some labels, int [n]: CSR float32 [n, L] of norm 1, at most `walk_top_k` labels in each.

        The row of a label without texts, or excluded from the walks, contains only the label itself.
        """
        walk = self.settings
        with ThreadPool(threads or default_threads()) as pool:
            pieces = np.array_split(np.asarray(labels, np.int64), _PARTS_PER_THREAD * pool.threads)
            arguments = walk.walk_length, walk.walk_restart, walk.walk_top_k, self.seed
            found = pool.run(_walk_all, [(self.paths, piece, *arguments) for piece in pieces])
        lengths, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return sparse.csr_matrix((values, columns, starts), (len(labels), self.num_labels))


@cached_njit(nogil=True)
def _walk_all(
    paths: _Paths, labels: np.ndarray, length: int, restart: float, top_k: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenated lengths, columns and values of the rows of `labels`."""
    room = min(top_k, length)
    lengths, to = np.empty(len(labels), np.int64), 0
    to_columns, to_values = np.empty(len(labels) * room, np.int32), np.empty(len(labels) * room, np.float32)
    visits = np.zeros(len(paths.text_starts) - 1, np.int32)
    touched, keys, scratch = np.empty(length, np.int32), np.empty(length, np.float32), np.empty(length, np.float32)
    for i in range(len(labels)):
        count = _walk(paths, labels[i], length, restart, seed, visits, touched)
        columns = np.sort(touched[:count])
        for j in range(count):
            keys[j] = visits[columns[j]]
            visits[columns[j]] = 0
        lengths[i] = keep_largest(columns, keys, scratch, top_k, to_columns[to:], to_values[to:])
        to += lengths[i]
    return lengths, to_columns[:to].copy(), to_values[:to].copy()


@cached_njit(nogil=True)
def _walk(
    paths: _Paths, start: int, length: int, restart: float, seed: int, visits: np.ndarray, touched: np.ndarray
) -> int:
    """Count the visits of one label's walk; `touched` lists the visited labels. Returns their number."""
    own_seed, at, count = np.int64(splitmix64(seed, start)), start, 0
    stays = paths.text_starts[start] == paths.text_starts[start + 1]
    for step in range(length):
        if stays or np.float64(splitmix64(own_seed, 3 * step) >> np.uint64(11)) * 2.0**-53 < restart:
            at = start
        else:
            text = _pick(paths.text_starts, paths.texts, at, splitmix64(own_seed, 3 * step + 1))
            at = _pick(paths.label_starts, paths.labels, text, splitmix64(own_seed, 3 * step + 2))
        if visits[at] == 0:
            touched[count] = at
            count += 1
        visits[at] += 1
    return count


@cached_njit(nogil=True)
def _pick(starts: np.ndarray, values: np.ndarray, row: int, random: np.uint64) -> int:
    """A random value of a non-empty row."""
    first = starts[row]
    return np.int64(values[first + np.int64(random % np.uint64(starts[row + 1] - first))])
