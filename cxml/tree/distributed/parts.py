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
from cxml.tree.label_graph import LabelGraph
from cxml.tree.name_features import set_beside

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
        num_features: F, columns of the texts' features.
        num_name_features: columns of the names' features, which lie in parts of their own; 0: none.
    """

    data_url: str
    tree_url: str
    settings: TreeConfig
    seed: int
    bounds: np.ndarray
    num_features: int
    num_name_features: int = 0

    @property
    def num_columns(self) -> int:
        """Columns of all features."""
        return self.num_features + self.num_name_features

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The parts to make from the texts, one kind after the other; the last one is clustered by."""
        return ("pifa", "smoothed") if self.settings.walk_length else ("pifa",)

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
    """Makes parts, and reads them. Holds the labels of all texts (about 20 bytes each) and maps the shards."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._progress = Progress(job.tree_url)

    def make(self, kind: Kind, part: int) -> None:
        """Make a part and keep it."""
        labels = self._order[self._job.bounds[part] : self._job.bounds[part + 1]]
        rows = self._smoothed(labels) if kind == "smoothed" else self._pifa(labels)
        self._progress.save_part(kind, part, rows)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """The finished features of the starting positions start..stop, those of the names beside those of the texts."""
        job = self._job
        rows = self._read(job.kinds[-1], np.arange(start, stop), job.num_features)
        if not job.num_name_features:
            return rows
        names = self._read("names", np.arange(start, stop), job.num_name_features)
        return set_beside(rows, names, job.settings.name_weight)

    def _pifa(self, labels: np.ndarray) -> sparse.csr_matrix:
        members = self._texts_of_label[:, labels]
        texts, numbers = np.unique(members.indices, return_inverse=True)
        features = self._dataset.features(texts)
        require_finite(features)
        weights = sparse.csr_matrix((members.data, numbers, members.indptr), (len(labels), len(texts)))
        return weighted_sums(weights, features, self._job.settings.feature_top_k, threads=1)

    def _smoothed(self, labels: np.ndarray) -> sparse.csr_matrix:
        graph = self._graph.rows(labels, threads=1)
        positions, numbers = np.unique(self._position[graph.indices], return_inverse=True)
        features = self._read("pifa", positions, self._job.num_features)
        weights = sparse.csr_matrix((graph.data, numbers, graph.indptr), (len(labels), len(positions)))
        return weighted_sums(weights, features, self._job.settings.feature_top_k, threads=1)

    def _read(self, kind: Kind, positions: np.ndarray, num_columns: int) -> sparse.csr_matrix:
        """The rows at rising positions, from the parts that hold them."""
        cuts = np.searchsorted(positions, self._job.bounds)
        pieces = [
            self._progress.read_part(kind, int(part), num_columns)[positions[slice(*cuts[part : part + 2])] - first]
            for part, first in enumerate(self._job.bounds[:-1])
            if cuts[part] < cuts[part + 1]
        ]
        return sparse.csr_matrix(sparse.vstack(pieces, format="csr"))

    @cached_property
    def _dataset(self) -> ShardedDataset:
        return ShardedDataset(self._job.data_url, "train")

    @cached_property
    def _order(self) -> np.ndarray:
        return initial_order(self._job.num_labels, self._job.seed)

    @cached_property
    def _position(self) -> np.ndarray:
        position = np.empty_like(self._order)
        position[self._order] = np.arange(len(position), dtype=position.dtype)
        return position

    @cached_property
    def _graph(self) -> LabelGraph:
        return LabelGraph.of(self._labels(), self._job.settings, self._job.seed)

    @cached_property
    def _texts_of_label(self) -> sparse.csc_matrix:
        return sparse.csc_matrix(self._labels())

    def _labels(self) -> sparse.csr_matrix:
        labels = self._dataset.column("labels")
        shape = (len(self._dataset), self._job.num_labels)
        return sparse.csr_matrix((np.ones(len(labels.values), np.int8), labels.values, labels.offsets), shape)
