"""Several splits of a data set as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from cxml.data.dataset import ShardedDataset
from cxml.data.manifest import DataManifest
from cxml.data.ragged import Ragged, concatenate
from cxml.data.splits import VALIDATION


class JoinedRows:
    """The rows of splits, one split after the other; satisfies `LabelledRows`."""

    def __init__(self, parts: Sequence[ShardedDataset]) -> None:
        """`parts`: at least one, of one data set."""
        self.manifest: DataManifest = parts[0].manifest
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.label_counts = np.concatenate([part.label_counts for part in parts])

    def __len__(self) -> int:
        """Rows of all parts."""
        return int(self._starts[-1])

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """See `TextRows.gather`."""
        rows, place = self._by_part(indices)
        found = [part.gather(own) for part, own in zip(self._parts, rows, strict=True)]
        ids, labels = (concatenate(each).take(place) for each in zip(*found, strict=True))
        return ids, labels

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [N, L]."""
        return sparse.csr_matrix(sparse.vstack([part.labels_csr() for part in self._parts]))

    def features(self, indices: np.ndarray) -> sparse.csr_matrix:
        """See `LabelledRows.features`."""
        rows, place = self._by_part(indices)
        found = [part.features(own) for part, own in zip(self._parts, rows, strict=True)]
        return sparse.csr_matrix(sparse.vstack(found))[place]

    def _by_part(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Rows of each part, and where each of `indices` lies among them, int64 [n]."""
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        rows = [indices[parts == part] - start for part, start in enumerate(self._starts[:-1])]
        return rows, np.argsort(np.argsort(parts, kind="stable"))


def all_labelled_texts(url: str) -> ShardedDataset | JoinedRows:
    """All texts of the data set at `url` but those of the test: its splits train and, if there is one, validation."""
    train = ShardedDataset(url, "train")
    train.start_verification()  # while the model loads
    if VALIDATION not in train.manifest.splits:
        return train
    return JoinedRows([train, ShardedDataset(url, VALIDATION)])
