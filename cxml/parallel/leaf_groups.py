"""The pairs (text, leaf) of a batch, in the order in which the kernels visit them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxml.data import lengths_to_offsets

_CHUNKS = 64


@dataclass(frozen=True)
class PartialSums:
    """Groups cut into a fixed number of chunks, which add up what their texts get each for itself.

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

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, for the kernels."""
        return tuple(vars(self).values())


@dataclass(frozen=True)
class LeafGroups:
    """The pairs of a batch that a shard owns, grouped by leaf.

    Attributes:
        starts: int64 [G], first local row of each leaf; ends: int64 [G], one past its last.
        position_shift: int64 [G], label position minus local row, the same for all rows of a leaf.
        pair_ptr: int64 [G + 1]; the texts of group g are pair_texts[pair_ptr[g]:pair_ptr[g + 1]].
        pair_texts: int64 [P].
        score_ptr: int64 [G + 1]; group g's scores are score_ptr[g] .. score_ptr[g + 1], row by row, its texts within.
        row_ptr: int64 [G + 1]; group g's rows among all touched rows.
    """

    starts: np.ndarray
    ends: np.ndarray
    position_shift: np.ndarray
    pair_ptr: np.ndarray
    pair_texts: np.ndarray
    score_ptr: np.ndarray
    row_ptr: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The touched rows, int64 [row_ptr[-1]]."""
        return np.repeat(self.starts - self.row_ptr[:-1], np.diff(self.row_ptr)) + np.arange(self.row_ptr[-1])

    def partial_sums(self, num_texts: int) -> PartialSums:
        """Chunks of groups, and where each of them adds up what the texts of its groups get."""
        work = self.score_ptr + self.row_ptr
        chunks = np.searchsorted(work, work[-1] * np.arange(_CHUNKS + 1) // _CHUNKS).astype(np.int64)
        chunks[-1] = len(self.starts)  # leaves without rows at the end are no work
        pairs = self.pair_ptr[chunks]
        keys = np.repeat(np.arange(_CHUNKS) * num_texts, np.diff(pairs)) + self.pair_texts
        sums, pair_sums = np.unique(keys, return_inverse=True)
        texts = sums % num_texts if num_texts else sums
        return PartialSums(
            chunks=chunks,
            sum_ptr=np.searchsorted(sums, np.arange(_CHUNKS + 1) * num_texts).astype(np.int64),
            pair_sums=pair_sums.astype(np.int64),
            text_ptr=lengths_to_offsets(np.bincount(texts, minlength=num_texts)),
            text_sums=np.argsort(texts, kind="stable").astype(np.int64),
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, for the kernels."""
        return tuple(vars(self).values())
