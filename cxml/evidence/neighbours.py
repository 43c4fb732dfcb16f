"""The nearest training texts as a source: they vote for their labels (the idea of RAE-XMC, Chang et al.).

Its folder holds the texts in the format of `cxml.evidence.vectors`. The parameter is the temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy import sparse

from cxml.data import Ragged
from cxml.evidence.folder import Folder
from cxml.evidence.nearest import VectorIndex
from cxml.evidence.source import LabelSubset, Proposals, TextViews, View, best_of_rows
from cxml.evidence.vectors import read_vectors, write_vectors
from cxml.metrics import metric_sums
from cxml.tree import LabelTree

NEIGHBOURS = 50
"""Number of texts that vote. With several labels per text, they give about as many candidates as the other parts.
More of them would be far away and have almost no weight at the chosen temperature."""
TEMPERATURES = (0.01, 0.03, 0.1, 0.3)
"""Temperatures to choose from on validation texts: a vote loses a factor e per this difference of cosines."""

_LEAST_SHARE = 1e-3  # of the votes; smaller shares are noise and count as none
_TINY = 1e-9
_K = 5  # cut-off of the nDCG that chooses the temperature


@dataclass(frozen=True, eq=False)
class NeighbourSource:
    """The training texts that are nearest in the model's feature space; satisfies `Source`.

    A label's score is the log of its share of the votes. A neighbour's vote for each of its labels is
    exp(cosine / temperature) over the sum of those of all neighbours.

    Attributes:
        index: of the N texts.
        labels: of each row of the index.
        num_labels: L.
        temperature: divisor of the cosines, above 0.
    """

    name: ClassVar[str] = "neighbours"
    reads: ClassVar[View] = "features"
    untuned: ClassVar[tuple[float, ...]] = TEMPERATURES[1:2]
    """Parameters before tuning."""
    index: VectorIndex
    labels: Ragged
    num_labels: int
    temperature: float

    @property
    def width(self) -> int:
        """See `Source`."""
        return self.index.width

    @property
    def num_bytes(self) -> int:
        """Memory of vectors, labels and centres."""
        kept = self.labels.values, self.labels.offsets, self.index.centres
        return 2 * len(self.index) * self.index.width + sum(array.nbytes for array in kept)

    @property
    def description(self) -> str:
        """See `Source`."""
        return f"the votes of the nearest among {len(self.index):,} training texts"

    def propose(self, texts: TextViews, k: int) -> Proposals:
        """See `Source`."""
        assert texts.features is not None, "it reads features"
        return self._by_votes(*self.index.search(texts.features, NEIGHBOURS), self.temperature, k)

    def _by_votes(self, cosines: np.ndarray, rows: np.ndarray, temperature: float, k: int) -> Proposals:
        """The proposals of the neighbours, int64 [N, K] with -1 for none."""
        is_found = rows >= 0
        votes = np.exp(np.where(is_found, cosines - cosines[:, :1], -np.inf) / temperature)
        votes /= np.maximum(votes.sum(1, keepdims=True), _TINY)
        own = self.labels.take(rows[is_found])
        keys = np.repeat(np.nonzero(is_found)[0], own.lengths) * self.num_labels + own.values
        pairs, place = np.unique(keys, return_inverse=True)
        shares = np.bincount(place, np.repeat(votes[is_found], own.lengths), minlength=len(pairs))
        scores = np.log(np.clip(shares, _LEAST_SHARE, 1))
        best = best_of_rows(*np.divmod(pairs, self.num_labels), scores, len(rows), k)
        return Proposals(*best, floor=math.log(_LEAST_SHARE))

    @property
    def parameters(self) -> list[float]:
        """The parameters that `tuned` chooses, as stored."""
        return [self.temperature]

    def tuned(self, features: np.ndarray, true: sparse.csr_matrix) -> NeighbourSource:
        """The source with the temperature at which the neighbours alone rank validation texts best.

        Args:
            features: float32 [N, D].
            true: their labels, CSR [N, L].
        """
        found = self.index.search(features, NEIGHBOURS)

        def quality(temperature: float) -> float:
            labels = self._by_votes(*found, temperature, _K).labels
            return metric_sums(labels, true, (_K,)).result()[f"nDCG@{_K}"]

        return replace(self, temperature=max(TEMPERATURES, key=quality))

    def restricted(self, subset: LabelSubset) -> NeighbourSource:
        """See `Source`. All texts are kept: a text without any remaining label still takes its share of the votes."""
        places = np.full(self.num_labels, -1, np.int32)
        places[subset.labels] = np.arange(len(subset.labels))
        values = places[self.labels.values]
        kept = np.append(0, np.cumsum(values >= 0))
        return replace(
            self, labels=Ragged(values[values >= 0], kept[self.labels.offsets]), num_labels=len(subset.labels)
        )

    def write(self, url: str) -> None:
        """See `Source`."""
        write_vectors(url, self.index, self.labels, self.parameters)


def read_neighbours(folder: Folder, tree: LabelTree) -> NeighbourSource:
    """Read the training texts in a folder. Raises the errors of `read_vectors`."""
    index, labels, (temperature,) = read_vectors(folder, tree.num_labels, 1)
    return NeighbourSource(index, labels, tree.num_labels, temperature)
