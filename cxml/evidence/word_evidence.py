"""What a model knows besides its cascade: words, their linear model, and how both are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from cxml.data import Vocabulary
from cxml.evidence.combination import CANDIDATES, Combination, Pairs, Proposals, pair_up, rank
from cxml.evidence.word_model import WordModel
from cxml.tree import LabelTree

_TEXTS_AT_ONCE = 4096  # each has up to 200 candidates, of some hundred bytes


@dataclass(frozen=True, eq=False)
class WordEvidence:
    """Words of whole texts as evidence for labels.

    Attributes:
        vocabulary: F words and their weights.
        model: of the words, over the cascade's tree.
        frequency: texts of the training that carry each label, int64 [L].
        combination: with the cascade's scores.
        shift: what is added to the logit of each label's score, float32 [L].
    """

    vocabulary: Vocabulary
    model: WordModel
    frequency: np.ndarray
    combination: Combination
    shift: np.ndarray

    def combine(
        self, features: sparse.csr_matrix, labels: np.ndarray, scores: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best labels of N texts by both parts.

        Args:
            features: tf-idf of the whole texts, CSR float32 [N, F].
            labels: int64 [N, K], the cascade's best labels, at least `CANDIDATES` of them; -1 for none.
            scores: their probabilities, float32 [N, K].
            k: labels to return, at most L.

        Returns:
            Label ids int64 [N, k], best first, -1 for none, and the logits of their scores, float32, -inf for none.
        """
        best, logits = np.full((len(labels), k), -1, np.int64), np.full((len(labels), k), -np.inf, np.float32)
        for start in range(0, len(labels), _TEXTS_AT_ONCE):
            some = slice(start, start + _TEXTS_AT_ONCE)
            pairs = self.pairs(features[some], labels[some], scores[some], max(k, CANDIDATES))
            of_pairs = self.combination.score(pairs) + self.shift[pairs.labels]
            best[some], logits[some] = rank(pairs, of_pairs, len(labels[some]), k)
        return best, logits

    def pairs(self, features: sparse.csr_matrix, labels: np.ndarray, scores: np.ndarray, num_candidates: int) -> Pairs:
        """The candidates of N texts, of which the words propose `num_candidates`; see `combine`."""
        words = Proposals(*self.model.predict(features, num_candidates))
        return pair_up(Proposals(labels, scores), words, self.frequency)

    def restricted(self, tree: LabelTree, kept: Sequence[np.ndarray], labels: np.ndarray) -> WordEvidence:
        """That of some labels; see `WordModel.restricted`. `labels` int64 [m] become 0 to m - 1."""
        return replace(
            self, model=self.model.restricted(tree, kept), frequency=self.frequency[labels], shift=self.shift[labels]
        )
