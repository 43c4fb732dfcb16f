"""A model's sources of labels beside its cascade, and the combination of all parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxml.data import Vocabulary
from cxml.evidence.combination import CANDIDATES, Combination, Pairs, candidate_pairs, rank
from cxml.evidence.source import LabelSubset, Proposals, Source, TextViews, View
from cxml.evidence.words import WordSource

_CANDIDATES_AT_ONCE = 800_000  # each of some hundred bytes


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for labels beside the cascade.

    Attributes:
        sources: at least one, with unique names.
        frequency: number of train texts of each label, int64 [L].
        combination: combines the sources with the cascade's scores.
        shift: offset added to the logit of each label's score, float32 [L].
    """

    sources: tuple[Source, ...]
    frequency: np.ndarray
    combination: Combination
    shift: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(source.name for source in self.sources)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary of the sources; None if no source reads words."""
        return next((source.vocabulary for source in self.sources if isinstance(source, WordSource)), None)

    def width(self, view: View) -> int | None:
        """Numbers per text of a view; None if no source reads that view."""
        return next((source.width for source in self.sources if source.reads == view), None)

    def combine(
        self, texts: TextViews, labels: np.ndarray, scores: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best labels of N texts by all parts.

        Args:
            texts: the views of the texts that the sources read.
            labels: int64 [N, K], the cascade's best labels, at least `CANDIDATES` of them; -1 for none.
            scores: their probabilities, float32 [N, K].
            k: labels to return, at most L.

        Returns:
            Label ids int64 [N, k], best first, -1 for none, and the logits of their scores, float32, -inf for none.
        """
        best, logits = np.full((len(labels), k), -1, np.int64), np.full((len(labels), k), -np.inf, np.float32)
        num_candidates = max(k, CANDIDATES)
        step = max(1, _CANDIDATES_AT_ONCE // (num_candidates * (1 + len(self.sources))))
        for start in range(0, len(labels), step):
            some = slice(start, start + step)
            pairs = self.pairs(texts.take(some), labels[some], scores[some], num_candidates)
            of_pairs = self.combination.score(pairs) + self.shift[pairs.labels]
            best[some], logits[some] = rank(pairs, of_pairs, len(labels[some]), k)
        return best, logits

    def pairs(self, texts: TextViews, labels: np.ndarray, scores: np.ndarray, num_candidates: int) -> Pairs:
        """The candidates of N texts, with `num_candidates` from each source; see `combine`."""
        proposed = [source.propose(texts, num_candidates) for source in self.sources]
        return candidate_pairs(Proposals(labels, scores), proposed, self.frequency)

    def restricted(self, subset: LabelSubset) -> Evidence:
        """The evidence of a subset of the labels."""
        return replace(
            self, sources=tuple(source.restricted(subset) for source in self.sources),
            frequency=self.frequency[subset.labels], shift=self.shift[subset.labels],
        )  # fmt: skip
