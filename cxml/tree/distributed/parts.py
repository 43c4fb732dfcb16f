"""Label features in parts: each part holds the rows of a range of starting positions of the tree.

The bounds of the parts depend only on the data set, not on the workers. A part is a pure function of the data set and
its bounds, so every worker produces the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from cxml.config import TreeConfig
from cxml.data import ShardedDataset, read_label_table
from cxml.tree.distributed.journal import BuildJournal, Kind
from cxml.tree.kmeans import initial_order
from cxml.tree.label_features import require_finite, weighted_sums
from cxml.tree.label_graph import LabelGraph
from cxml.tree.name_features import set_beside

_PARTS = 64
_LEAST_ENTRIES, _MOST_ENTRIES = 1 << 18, 1 << 23


@dataclass(frozen=True)
class Job:
    """The inputs of every worker.

    Attributes:
        data_url: the prepared data set.
        tree_url: folder of the tree; progress is stored next to it.
        settings: the config's section `tree`.
        seed: seed of the tree.
        bounds: the positions at which parts start, int64 [parts + 1].
        num_features: F, columns of the texts' features.
        num_name_features: columns of the name features, which have separate parts; 0 for none.
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
        """The kinds of parts to make from the texts, in order; the last kind is clustered."""
        return ("pifa", "smoothed") if self.settings.walk_length else ("pifa",)

    @property
    def num_labels(self) -> int:
        """L."""
        return int(self.bounds[-1])

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self.bounds) - 1


def label_work(data_url: str, dataset: ShardedDataset) -> np.ndarray:
    """Approximate number of tf-idf entries in the sum of each label's features, int64 [L]."""
    frequency = read_label_table(data_url).frequency
    return np.ceil(frequency * dataset.feature_counts.mean()).astype(np.int64)


def part_bounds(work: np.ndarray) -> np.ndarray:
    """Split labels into parts of about equal work: bounds int64 [parts + 1]; `work` int64 [L] is in tree order.

    A part sums at most about _MOST_ENTRIES entries, unless a single label has more.
    """
    ends = np.cumsum(work)
    size = int(np.clip(ends[-1] // _PARTS, _LEAST_ENTRIES, _MOST_ENTRIES))
    cuts = np.searchsorted(ends, np.arange(size, ends[-1], size))
    return np.unique(np.concatenate([[0], cuts, [len(work)]])).astype(np.int64)


class PartMaker:
    """Makes and reads parts. Holds the labels of all texts (about 20 bytes each) and memory-maps the shards."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._journal = BuildJournal(job.tree_url)

    def make(self, kind: Kind, part: int) -> None:
        """Make and store a part."""
        labels = self._order[self._job.bounds[part] : self._job.bounds[part + 1]]
        rows = self._smoothed(labels) if kind == "smoothed" else self._pifa(labels)
        self._journal.save_part(kind, part, rows)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """The finished features of the starting positions start..stop: text features, then name features."""
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
        """The rows at sorted positions, from their parts."""
        cuts = np.searchsorted(positions, self._job.bounds)
        pieces = [
            self._journal.read_part(kind, int(part), num_columns)[positions[slice(*cuts[part : part + 2])] - first]
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
