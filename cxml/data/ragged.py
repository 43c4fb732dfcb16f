"""Lists of different lengths as two flat arrays, and the index computation for gathering them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: all rows end to end, [nnz].
        offsets: int64 [n + 1], rising from 0 to nnz.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], dtype: type[np.generic] = np.int32) -> Ragged:
        """Flatten Python lists."""
        offsets = lengths_to_offsets(np.fromiter((len(row) for row in rows), np.int64, len(rows)))
        values = np.fromiter(chain.from_iterable(rows), dtype, int(offsets[-1]))
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row, int64 [n]."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows start..stop, without copying their values."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, rows: np.ndarray) -> Ragged:
        """Some rows, int64 [m], in that order."""
        lengths = self.lengths[rows]
        return Ragged(self.values[range_indices(self.offsets[rows], lengths)], lengths_to_offsets(lengths))


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """The concatenated rows of all parts."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), lengths_to_offsets(lengths))


def lengths_to_offsets(lengths: np.ndarray) -> np.ndarray:
    """Offsets int64 [n + 1] of rows with these lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def range_indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenated integers of all ranges `starts[i]..starts[i] + lengths[i]`, int64 [sum of lengths]."""
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
