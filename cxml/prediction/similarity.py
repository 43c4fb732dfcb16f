"""Similar labels and texts by the cosine of the model's features, with exact search in faiss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cxml.data import ShardedDataset, shown_labels
from cxml.errors import ConfigError
from cxml.evidence import load_faiss, unit_rows
from cxml.prediction.predictor import Predictor

_TEXTS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest neighbours of each query, best first.

    Attributes:
        ids: int64 [Q, K].
        cosines: float32 [Q, K].
    """

    ids: np.ndarray
    cosines: np.ndarray


class Similarity:
    """An index of unit vectors for nearest-neighbour search."""

    def __init__(self, vectors: np.ndarray) -> None:
        """Index vectors float [N, D], copied and normalised.

        Raises:
            ConfigError: faiss is not installed.
        """
        faiss = load_faiss("cxml.similar", "the search", "similar")
        self._vectors = unit_rows(vectors)
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest vectors of each query float [Q, D], limited by the size of the index."""
        cosines, ids = self._index.search(unit_rows(queries), min(k, len(self)))
        return Neighbours(ids, cosines)

    def nearest_of(self, rows: np.ndarray, k: int) -> Neighbours:
        """The k nearest neighbours of indexed vectors, int64 [Q], each without itself."""
        found = self.nearest(self._vectors[rows], k + 1)
        others = found.ids != rows[:, None]
        # A duplicate may rank before the vector itself; then the last position is dropped, else the vector's own.
        others[others.all(1), -1] = False
        shape = len(rows), found.ids.shape[1] - 1
        return Neighbours(found.ids[others].reshape(shape), found.cosines[others].reshape(shape))

    def pairs_above(self, cosine: float) -> Iterator[tuple[int, int, float]]:
        """Yield pairs of vectors with at least this cosine, smaller row first, sorted by row."""
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            limits, cosines, ids = self._index.range_search(self._vectors[start : start + _TEXTS_AT_ONCE], cosine)
            for place in range(len(limits) - 1):
                own = slice(limits[place], limits[place + 1])
                later = ids[own] > start + place
                order = np.argsort(ids[own][later])
                pairs = zip(ids[own][later][order].tolist(), cosines[own][later][order].tolist(), strict=True)
                yield from ((start + place, other, value) for other, value in pairs)


def label_similarity(predictor: Predictor) -> Similarity:
    """An index of the labels by their weights, in the order of label ids."""
    parts = predictor.parts
    parts.check_rows()
    return Similarity(parts.rows.floats(slice(None))[parts.tree.label_positions()])


def text_similarity(predictor: Predictor, dataset: ShardedDataset) -> Similarity:
    """An index of a split's texts by their label features, in row order, with 4 D bytes per text."""
    features = np.empty((len(dataset), predictor.model.encoder.feature_sizes[-1]), np.float32)
    for start in range(0, len(dataset), _TEXTS_AT_ONCE):
        rows = np.arange(start, min(start + _TEXTS_AT_ONCE, len(dataset)))
        features[rows] = predictor.embed(dataset.texts(rows))
    return Similarity(features)


def label_id(predictor: Predictor, name: str) -> int:
    """The id of a label by its name, not its title. Raises `ConfigError` if it does not exist."""
    names: Sequence[str] = predictor.names
    shown = shown_labels(names, predictor.titles)
    try:
        return names.index(name)
    except ValueError as error:
        alike = [names[i] for i, other in enumerate(shown) if name.lower() in other.lower()][:3]
        remedy = f"Did you mean {' or '.join(map(repr, alike))}?" if alike else "Names are matched whole."
        raise ConfigError("--label", name, "is not a label of this model", remedy) from error
