"""Label features in parts: each part holds the rows of a run of starting positions of the tree.

The bounds of the parts follow from the data set alone, never from the workers, and a part is a pure function of the
data set and its bounds: whoever makes it, its bytes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from cxml.config import TreeConfig
from cxml.data import ShardedDataset, read_labels
from cxml.tree.distributed.progress import Kind, Progress
from cxml.tree.kmeans import initial_order
from cxml.tree.label_features import require_finite, weighted_sums

_PARTS = 64
_LEAST_ENTRIES, _MOST_ENTRIES = 1 << 18, 1 << 23


@dataclass(frozen=True)
class Job:
    """All that a worker must know; the same for each.

    Attributes:
        data_url: the prepared data set.
        tree_url: where the tree will lie; what is finished is kept beside it.
        settings: the config's section.
        seed: of the tree.
        bounds: the positions at which parts start, int64 [parts + 1].
    """

    data_url: str
    tree_url: str
    settings: TreeConfig
    seed: int
    bounds: np.ndarray

    @property
    def num_labels(self) -> int:
        """L."""
        return int(self.bounds[-1])

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return len(self.bounds) - 1


def label_work(data_url: str, dataset: ShardedDataset) -> np.ndarray:
    """Tf-idf entries that the features of each label are summed from, about: int64 [L]."""
    _, frequency = read_labels(data_url)
    return np.ceil(frequency * dataset.feature_counts.mean()).astype(np.int64)


def part_bounds(work: np.ndarray) -> np.ndarray:
    """Where to cut labels into parts of about equal work, int64 [parts + 1]; `work` int64 [L] is in tree order.

    A part sums up at most about _MOST_ENTRIES entries, unless a single label has more.
    """
    ends = np.cumsum(work)
    size = int(np.clip(ends[-1] // _PARTS, _LEAST_ENTRIES, _MOST_ENTRIES))
    cuts = np.searchsorted(ends, np.arange(size, ends[-1], size))
    return np.unique(np.concatenate([[0], cuts, [len(work)]])).astype(np.int64)


class PartMaker:
    """Makes parts. Holds the labels of all texts (5 bytes each) and maps the shards."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._progress = Progress(job.tree_url)

    def make(self, kind: Kind, part: int) -> None:
        """Make a part and keep it."""
        self._progress.save_part(kind, part, self._pifa(part))

    def _pifa(self, part: int) -> sparse.csr_matrix:
        labels = self._order[self._job.bounds[part] : self._job.bounds[part + 1]]
        members = self._texts_of_label[:, labels]
        texts, numbers = np.unique(members.indices, return_inverse=True)
        features = self._dataset.features(texts)
        require_finite(features)
        weights = sparse.csr_matrix((members.data, numbers, members.indptr), (len(labels), len(texts)))
        return weighted_sums(weights, features, self._job.settings.feature_top_k, threads=1)

    @cached_property
    def _dataset(self) -> ShardedDataset:
        return ShardedDataset(self._job.data_url, "train")

    @cached_property
    def _order(self) -> np.ndarray:
        return initial_order(self._job.num_labels, self._job.seed)

    @cached_property
    def _texts_of_label(self) -> sparse.csc_matrix:
        labels = self._dataset.column("labels")
        shape = (len(self._dataset), self._job.num_labels)
        ones = np.ones(len(labels.values), np.int8)
        return sparse.csc_matrix(sparse.csr_matrix((ones, labels.values, labels.offsets), shape))
