"""The interface of sources, which propose labels of a text beside the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from cxml.tree import LabelTree

View = Literal["words", "features"]
"""A field of `TextViews` that a source reads."""


class TextViews(NamedTuple):
    """The inputs of sources for N texts; None if no source of the model reads the field.

    Attributes:
        words: tf-idf of the whole texts, CSR float32 [N, F].
        features: input of the cascade's label level, float32 [N, D].
    """

    words: sparse.csr_matrix | None = None
    features: np.ndarray | None = None

    def take(self, rows: slice | np.ndarray) -> TextViews:
        """The views of some of the texts."""
        words = None if self.words is None else sparse.csr_matrix(self.words[rows])
        return TextViews(words, None if self.features is None else self.features[rows])


class Proposals(NamedTuple):
    """Labels that the cascade or a source proposes for N texts.

    Attributes:
        labels: int64 [N, K], each once per row, -1 for none.
        scores: float [N, K]: probabilities of the cascade, log-probabilities of a source.
        floor: score of labels that are not proposed; None if unknown, then at most the smallest score of the text.
    """

    labels: np.ndarray
    scores: np.ndarray
    floor: float | None = None


class LabelSubset(NamedTuple):
    """A subset of a model's labels, renumbered.

    Attributes:
        tree: tree over the subset.
        kept: the kept nodes of each level of the original tree, sorted int64, with the label level last.
        labels: sorted int64 [m]; label i of the subset is the original label `labels[i]`.
    """

    tree: LabelTree
    kept: Sequence[np.ndarray]
    labels: np.ndarray


class Source(Protocol):
    """Proposes labels. `write` stores it, and the function in `cxml.evidence.files` reads it."""

    name: ClassVar[str]
    reads: ClassVar[View]

    @property
    def width(self) -> int:
        """Numbers per text of the input view: F or D."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory in bytes."""
        ...

    @property
    def description(self) -> str:
        """A short description for a model card."""
        ...

    def propose(self, texts: TextViews, k: int) -> Proposals:
        """At most k labels of each text, best first. A label's score does not depend on the other labels of the model.

        Args:
            texts: has the view that the source reads.
            k: labels per text.
        """
        ...

    def restricted(self, subset: LabelSubset) -> Source:
        """The source for a subset of the labels."""
        ...

    def write(self, url: str) -> None:
        """Write the files into the empty folder `url`."""
        ...


def best_of_rows(
    rows: np.ndarray, labels: np.ndarray, scores: np.ndarray, num_rows: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best labels of each row, from P pairs of a row and a label in any order.

    Args:
        rows: int64 [P].
        labels: int64 [P].
        scores: float [P]; -inf leaves a pair out.
        num_rows: N.
        k: labels per row.

    Returns:
        Labels int64 [N, k], -1 for none, and scores float32, -inf for none. Ties are sorted by label.
    """
    order = np.lexsort((labels, -scores, rows))
    order = order[scores[order] > -np.inf]
    own = rows[order]
    places = np.arange(len(own)) - np.searchsorted(own, own)
    kept = places < k
    found, best = np.full((num_rows, k), -1, np.int64), np.full((num_rows, k), -np.inf, np.float32)
    found[own[kept], places[kept]] = labels[order][kept]
    best[own[kept], places[kept]] = scores[order][kept]
    return found, best
