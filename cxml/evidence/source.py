"""Sources: what proposes labels of a text beside the cascade, and what every source can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from cxml.tree import LabelTree

View = Literal["words", "features"]
"""What a source reads of a text, a field of `TextViews`."""


class TextViews(NamedTuple):
    """What sources read of N texts; None where no source of the model reads it.

    Attributes:
        words: tf-idf of the whole texts, CSR float32 [N, F].
        features: those that the labels' level of the cascade reads, float32 [N, D].
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
        floor: the score of labels that are not proposed; None: not known, but not more than the least of a text.
    """

    labels: np.ndarray
    scores: np.ndarray
    floor: float | None = None


class LabelSubset(NamedTuple):
    """Some of a model's labels, numbered anew.

    Attributes:
        tree: over them.
        kept: of each level of the tree before, those of the labels last, the nodes that stay, int64, rising.
        labels: int64 [m], rising; label i is `labels[i]` of before.
    """

    tree: LabelTree
    kept: Sequence[np.ndarray]
    labels: np.ndarray


class Source(Protocol):
    """Proposes labels. It is written by `write` and read by the function that `cxml.evidence.files` names for it."""

    name: ClassVar[str]
    reads: ClassVar[View]

    @property
    def width(self) -> int:
        """Numbers per text of the view that it reads: F or D."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        ...

    @property
    def described(self) -> str:
        """What it is, in a few words, for a model card."""
        ...

    def propose(self, texts: TextViews, k: int) -> Proposals:
        """At most k labels of each text, best first. A label's score does not depend on which other labels there are.

        Args:
            texts: the view that it reads is there.
            k: labels per text.
        """
        ...

    def restricted(self, subset: LabelSubset) -> Source:
        """The source of some of its labels."""
        ...

    def write(self, url: str) -> None:
        """Write its files into the folder `url`, which has no other ones."""
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
        Labels int64 [N, k], -1 for none, and scores float32, -inf for none. Equal scores are in the order of labels.
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
