"""Nearest-neighbour search by cosine among unit vectors, with faiss: exact for few vectors, inverted lists for many.

Vectors are stored in fp16. With up to `EXACT` vectors, a query is compared with all of them. With more, k-means assigns
them to lists, and a query is compared with the vectors of the `PROBES` nearest lists. A graph (HNSW) has slightly
better recall per comparison, but its links are as large as the vectors of a small encoder, it is built one vector at a
time, and only faiss can read and write it. Lists are plain arrays.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from cxml import extras

EXACT = 1 << 18
"""Most vectors that are searched exactly: 12 ms of a core per query of width 384, about the time of a small encoder."""
PROBES = 32
_LISTS_OF_ROOT = 4  # lists per square root of the number of vectors, as the faiss wiki advises
_SAMPLE_OF_A_LIST = 64  # vectors per list that k-means looks at
_VECTORS_AT_ONCE = 1 << 16
_SEED = 0


class VectorIndex:
    """N unit vectors in lists. Rows are numbered list by list."""

    def __init__(self, vectors: np.ndarray, bounds: np.ndarray, centres: np.ndarray) -> None:
        """Build an index.

        Args:
            vectors: float16 [N, D], list by list.
            bounds: int64 [C + 1], the rows of each list.
            centres: of the C lists, float32 [C, D].
        """
        faiss = load_faiss()
        self.centres = np.ascontiguousarray(centres)
        self.bounds = bounds
        self.width = centres.shape[1]
        self._quantizer = faiss.IndexFlatIP(self.width)  # the index only points to it
        self._quantizer.add(self.centres)
        form = faiss.ScalarQuantizer.QT_fp16
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer, self.width, len(centres), form, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.is_trained = True  # fp16 storage needs no training
        self._index.nprobe = PROBES
        rows = np.arange(len(vectors))
        for number, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            codes = np.ascontiguousarray(vectors[start:stop]).view(np.uint8)
            own = faiss.swig_ptr(rows[start:stop])
            self._index.invlists.add_entries(number, stop - start, own, faiss.swig_ptr(codes))
        self._index.ntotal = len(vectors)

    def __len__(self) -> int:
        """N."""
        return self._index.ntotal

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest vectors of each query, float [Q, D] of any length.

        Returns:
            Cosines float32 [Q, k] and rows int64 [Q, k], best first, -1 where there are no more in the lists.
        """
        if not len(queries):
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
        return self._index.search(unit_rows(queries), k)

    def vectors(self) -> np.ndarray:
        """A copy of the vectors, float16 [N, D]."""
        faiss = load_faiss()
        found = np.empty((len(self), self.width), np.float16)
        for number, (start, stop) in enumerate(itertools.pairwise(self.bounds.tolist())):
            if start < stop:
                codes = faiss.rev_swig_ptr(self._index.invlists.get_codes(number), (stop - start) * 2 * self.width)
                found[start:stop] = codes.view(np.float16).reshape(stop - start, self.width)
        return found


def num_lists(num_vectors: int) -> int:
    """Number of lists for a number of vectors."""
    return 1 if num_vectors <= EXACT else round(_LISTS_OF_ROOT * num_vectors**0.5)


def sample_size(count: int) -> int:
    """Number of vectors that k-means uses for the centres of `count` lists; 0 for a single list."""
    return count * _SAMPLE_OF_A_LIST if count > 1 else 0


def list_centres(sample: np.ndarray, count: int) -> np.ndarray:
    """Compute the centres of `count` lists by k-means over a sample of unit vectors, float [n, D]: float32 [C, D].

    C is at most the size of the sample.
    """
    count = min(count, max(1, len(sample)))
    if count == 1:
        return np.zeros((1, sample.shape[1]), np.float32)
    faiss = load_faiss()
    means = faiss.Kmeans(sample.shape[1], count, seed=_SEED, spherical=True, max_points_per_centroid=_SAMPLE_OF_A_LIST)
    means.train(np.ascontiguousarray(sample, np.float32))
    return means.centroids


def nearest_lists(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The list of each vector, float [N, D], int32 [N]."""
    if len(centres) == 1:
        return np.zeros(len(vectors), np.int32)
    faiss = load_faiss()
    found = np.zeros(len(vectors), np.int32)
    for start in range(0, len(vectors), _VECTORS_AT_ONCE):
        some = slice(start, start + _VECTORS_AT_ONCE)
        floats = np.ascontiguousarray(vectors[some], np.float32)
        found[some] = faiss.knn(floats, centres, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    return found


def load_faiss(field: str = "evidence.neighbours", value: object = True, extra: str = "neighbours") -> Any:  # noqa: ANN401 - faiss has no types
    """Import the package faiss, which `field` needs.

    Raises:
        ConfigError: faiss is not installed. The message names the extra to install.
    """
    extras.require(field, value, "faiss", extra=extra)
    import faiss  # noqa: PLC0415 - an optional package

    return faiss


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """A copy of vectors [N, D], each scaled to length 1, float32; zeros stay zeros."""
    floats = np.array(vectors, np.float32, order="C")
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.divide(floats, lengths, out=floats, where=lengths > 0)
