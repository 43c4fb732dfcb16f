"""The pairs (text, leaf) of a batch, in the order in which the kernels visit them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNKS = 16


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

    def chunks(self) -> np.ndarray:
        """Group bounds of chunks of nearly equal work, int64 [chunks + 1]."""
        work = self.score_ptr + self.row_ptr
        return np.searchsorted(work, work[-1] * np.arange(_CHUNKS + 1) // _CHUNKS).astype(np.int64)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, for the kernels."""
        return tuple(vars(self).values())
