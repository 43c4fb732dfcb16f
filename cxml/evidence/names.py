"""The label names as a source: it proposes the names nearest to a text in feature space, also of unseen labels.

Its folder holds the names in the format of `cxml.evidence.vectors`, one label each. The parameters are slope and
offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy import sparse

from cxml.data import Ragged
from cxml.evidence.combination import CANDIDATES
from cxml.evidence.folder import Folder
from cxml.evidence.logistic import fit_logistic
from cxml.evidence.nearest import VectorIndex
from cxml.evidence.source import LabelSubset, Proposals, TextViews, View
from cxml.evidence.vectors import read_vectors, write_vectors
from cxml.tree import LabelTree


@dataclass(frozen=True, eq=False)
class NameSource:
    """Names of labels in the model's feature space; satisfies `Source`.

    A label's score is the log-probability of a logistic curve over the cosine of text and name.

    Attributes:
        index: of the n names.
        labels: the label of each row of the index, int32 [n].
        slope: slope of the curve, above 0.
        offset: offset of the curve.
    """

    name: ClassVar[str] = "names"
    reads: ClassVar[View] = "features"
    untuned: ClassVar[tuple[float, ...]] = (20.0, -15.0)
    """Parameters before tuning, and if validation texts have no true names."""
    index: VectorIndex
    labels: np.ndarray
    slope: float
    offset: float

    @property
    def width(self) -> int:
        """See `Source`."""
        return self.index.width

    @property
    def num_bytes(self) -> int:
        """Memory of vectors, labels and centres."""
        return 2 * len(self.index) * self.index.width + self.labels.nbytes + self.index.centres.nbytes

    @property
    def description(self) -> str:
        """See `Source`."""
        return f"the nearest of {len(self.index):,} label names"

    def propose(self, texts: TextViews, k: int) -> Proposals:
        """See `Source`."""
        assert texts.features is not None, "it reads features"
        cosines, labels = self._nearest(texts.features, k)
        scores = -np.logaddexp(0, -(self.slope * cosines + self.offset))
        return Proposals(labels, np.where(labels >= 0, scores, -np.inf).astype(np.float32))

    def _nearest(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and labels (-1 for none) of the nearest names."""
        if not len(self.index):
            return np.zeros((len(features), 0), np.float32), np.zeros((len(features), 0), np.int64)
        cosines, rows = self.index.search(features, min(k, len(self.index)))
        return cosines, np.where(rows >= 0, self.labels[rows], -1).astype(np.int64)

    @property
    def parameters(self) -> list[float]:
        """The parameters that `tuned` chooses, as stored."""
        return [self.slope, self.offset]

    def tuned(self, features: np.ndarray, true: sparse.csr_matrix) -> NameSource:
        """The source with the curve fitted to the nearest names of validation texts.

        Args:
            features: float32 [N, D].
            true: their labels, CSR [N, L].
        """
        cosines, labels = self._nearest(features, CANDIDATES)
        rows, places = np.nonzero(labels >= 0)
        is_true = np.asarray(true[rows, labels[rows, places]]).ravel() > 0
        if not is_true.any():
            return self
        (slope,), offset = fit_logistic(cosines[rows, places, None].astype(np.float64), is_true)
        return replace(self, slope=float(slope), offset=offset) if slope > 0 else self

    def restricted(self, subset: LabelSubset) -> NameSource:
        """See `Source`."""
        places = np.searchsorted(subset.labels, self.labels)
        kept = subset.labels[np.minimum(places, len(subset.labels) - 1)] == self.labels
        bounds = np.append(0, np.cumsum(kept))[self.index.bounds]
        index = VectorIndex(self.index.vectors()[kept], bounds, self.index.centres)
        return replace(self, index=index, labels=places[kept].astype(np.int32))

    def write(self, url: str) -> None:
        """See `Source`."""
        write_vectors(url, self.index, Ragged(self.labels, np.arange(len(self.labels) + 1)), self.parameters)


def read_names(folder: Folder, tree: LabelTree) -> NameSource:
    """Read the names in a folder. Raises the errors of `read_vectors`, and `DataError` if a name has not one label."""
    index, labels, (slope, offset) = read_vectors(folder, tree.num_labels, 2)
    if (labels.lengths != 1).any():
        raise folder.broken("part-00000.safetensors", "must contain exactly one label per name")
    return NameSource(index, labels.values, slope, offset)
