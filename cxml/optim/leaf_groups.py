"""The pairs (text, leaf) of a batch in the order of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxml.data import lengths_to_offsets

_CHUNKS = 64


class PartialSums(NamedTuple):
    """Groups divided into a fixed number of chunks, each of which computes its own sums per text.

    The order of additions does not depend on the number of threads. A chunk has sums for the texts of its pairs only.

    Attributes:
        chunks: int64 [chunks + 1], group bounds of chunks of nearly equal work.
        sum_ptr: int64 [chunks + 1]; chunk c has the sums sum_ptr[c] .. sum_ptr[c + 1].
        pair_sums: int64 [P], the sum that each pair adds to.
        text_ptr: int64 [B + 1]; text b has the sums text_sums[text_ptr[b]:text_ptr[b + 1]], in the chunks' order.
        text_sums: int64 [sums].
    """

    chunks: np.ndarray
    sum_ptr: np.ndarray
    pair_sums: np.ndarray
    text_ptr: np.ndarray
    text_sums: np.ndarray


class LeafGroups(NamedTuple):
    """P pairs (text, leaf), sorted by leaf, in G groups of one leaf each.

    Attributes:
        starts: int64 [G], first row of each leaf.
        ends: int64 [G], one past its last.
        position_shift: int64 [G], position in the level minus row, the same for all rows of a leaf.
        pair_ptr: int64 [G + 1]; group g has the pairs pair_ptr[g] .. pair_ptr[g + 1].
    """

    starts: np.ndarray
    ends: np.ndarray
    position_shift: np.ndarray
    pair_ptr: np.ndarray

    @classmethod
    def of(cls, leaves: np.ndarray, starts: np.ndarray, positions: np.ndarray) -> LeafGroups:
        """Find the groups.

        Args:
            leaves: integers [P], rising; n, the number of leaves, for a missing pair.
            starts: int64 [n + 1], see `cxml.optim.candidates.LeafRows`.
            positions: int64 [n].
        """
        leaves = leaves[: np.searchsorted(leaves, len(positions))]
        is_first = np.ones(len(leaves), bool)
        np.not_equal(leaves[1:], leaves[:-1], out=is_first[1:])
        first = np.flatnonzero(is_first)
        own = leaves[first]
        begins = starts[own]
        return cls(begins, starts[own + 1], positions[own] - begins, np.append(first, len(leaves)).astype(np.int64))

    def partial_sums(self, texts: np.ndarray, num_texts: int) -> PartialSums:
        """Chunks of groups, and the location of each chunk's sums per text.

        Args:
            texts: integers [at least P], the text of each pair.
            num_texts: S.
        """
        rows = self.ends - self.starts
        work = lengths_to_offsets(rows * (np.diff(self.pair_ptr) + 1))
        chunks = np.searchsorted(work, work[-1] * np.arange(_CHUNKS + 1) // _CHUNKS).astype(np.int64)
        chunks[-1] = len(self.starts)  # leaves without rows at the end are no work
        pairs = self.pair_ptr[chunks]
        keys = np.repeat(np.arange(_CHUNKS) * num_texts, np.diff(pairs)) + texts[: self.pair_ptr[-1]]
        sums, pair_sums = np.unique(keys, return_inverse=True)
        own = sums % num_texts if num_texts else sums
        return PartialSums(
            chunks=chunks,
            sum_ptr=np.searchsorted(sums, np.arange(_CHUNKS + 1) * num_texts).astype(np.int64),
            pair_sums=pair_sums.astype(np.int64),
            text_ptr=lengths_to_offsets(np.bincount(own, minlength=num_texts)),
            text_sums=np.argsort(own, kind="stable").astype(np.int64),
        )
