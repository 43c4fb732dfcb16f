"""From the cascade's best labels of a text to those that are given back: evidence, label weights, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from cxml.errors import ConfigError
from cxml.evidence import CANDIDATES as EVIDENCE_CANDIDATES
from cxml.evidence import Evidence, TextViews
from cxml.metrics import Calibration, Thresholds
from cxml.model.ranking import probabilities
from cxml.prediction.parts import Parts
from cxml.prediction.rare_labels import CANDIDATES, weigh_logits


@dataclass(frozen=True, eq=False)
class Ranker:
    """How a model ranks the labels that are proposed for a text, and which of them it keeps.

    Attributes:
        label_ids: id of each label of the tree, int64 [L], in the order of the tree's ids.
        label_weights: see `Parts`.
        evidence: sources beside the cascade; None where there are none.
        calibration: of the scores that are given back; None leaves them as they are.
    """

    label_ids: np.ndarray
    label_weights: np.ndarray | None
    evidence: Evidence | None
    calibration: Calibration | None

    @classmethod
    def of(cls, parts: Parts, label_ids: np.ndarray, *, calibrated: bool) -> Ranker:
        """The ranker of a model, with or without the calibration of its scores.

        Raises:
            ConfigError: the model has no calibration.
        """
        calibration = parts.decisions.calibration if calibrated else None
        if calibrated and calibration is None:
            problem = "this model has no calibration of its scores"
            remedy = "Evaluate a run that has validation texts (train.validation_fraction): python -m cxml.evaluate."
            raise ConfigError("calibrated", calibrated, problem, remedy)
        return cls(label_ids, parts.label_weights, parts.evidence, calibration)

    def words_of(self, texts: Sequence[str]) -> sparse.csr_matrix | None:
        """Tf-idf of N whole texts, CSR float32 [N, F]; None if no source reads words."""
        vocabulary = None if self.evidence is None else self.evidence.vocabulary
        return None if vocabulary is None else vocabulary.of_texts(texts)

    def new_views(self, words: sparse.csr_matrix | None, num_texts: int) -> TextViews:
        """The inputs of the sources for N texts; features that a source reads are zeros, to be filled in.

        Raises:
            ConfigError: a source reads words, which are missing or have another shape than [N, F].
        """
        if self.evidence is None:
            return TextViews(words)
        num_words, width = self.evidence.width("words"), self.evidence.width("features")
        if num_words is not None and (words is None or words.shape != (num_texts, num_words)):
            wanted = num_texts, num_words
            found = "tokens alone" if words is None else f"words of the shape {words.shape}"
            raise ConfigError(
                "words", None, f"the model needs the words of whole texts, {wanted}, but got {found}",
                "Give the texts to `predict`, or load the model with evidence=False.",
            )  # fmt: skip
        return TextViews(words, None if width is None else np.zeros((num_texts, width), np.float32))

    def num_of_cascade(self, wanted: int) -> int:
        """The number of the cascade's best labels needed to rank the model's `wanted` best."""
        most = min(EVIDENCE_CANDIDATES, len(self.label_ids))
        return wanted if self.evidence is None else max(wanted, most)

    def with_evidence(
        self, labels: np.ndarray, logits: np.ndarray, texts: TextViews, wanted: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `wanted` best labels and their logits, from the cascade's labels [N, K] and the inputs of the sources."""
        evidence = self.evidence
        if evidence is None:
            return labels, logits
        return evidence.combine(texts, labels, probabilities(torch.from_numpy(logits)).numpy(), wanted)

    def num_candidates(self, k: int, least: Thresholds | float | None, spare: int = 0) -> int:
        """The number of most probable labels that include the k best, if up to `spare` are removed."""
        own_order = self.label_weights is not None or (isinstance(least, Thresholds) and len(least.own) > 0)
        return min((max(k, CANDIDATES) if own_order else k) + spare, len(self.label_ids))

    def rank(self, labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label ids and the logits of their scores, both [N, K], in ranking order."""
        ids = np.where(labels >= 0, self.label_ids[np.maximum(labels, 0)], -1)
        if self.label_weights is None:
            return ids, logits
        weighted, order = weigh_logits(ids, logits, self.label_weights)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(weighted, order, 1)

    def apply_threshold(
        self, labels: np.ndarray, scores: np.ndarray, least: Thresholds | float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels that reach the threshold, first, and their scores, after `calibration`; both [N, K]."""
        kept = labels >= 0
        if isinstance(least, Thresholds):
            kept = least.above(labels, scores)
        if self.calibration is not None:
            scores = np.where(labels >= 0, self.calibration(scores), np.float32(0))
        if isinstance(least, float):
            kept = Thresholds(least).above(labels, scores)
        if least is None:
            return labels, scores
        order = np.argsort(~kept, axis=1, kind="stable")
        labels, scores = np.where(kept, labels, -1), np.where(kept, scores, np.float32(0))
        return np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1)


def lookup_logits(labels: np.ndarray, nodes: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The logits of labels [N, K'] looked up in unique nodes [N, K] with logits; -inf for missing labels."""
    width = 2 + max(labels.max(initial=-1), nodes.max(initial=-1))
    wanted, known = (each + 1 + width * np.arange(len(each))[:, None] for each in (labels, nodes))
    order = np.argsort(known, axis=None)
    places = np.minimum(np.searchsorted(known.ravel()[order], wanted), len(order) - 1)
    is_known = known.ravel()[order][places] == wanted
    return np.where(is_known, logits.ravel()[order][places], np.float32(-np.inf))


def drop_excluded(
    labels: np.ndarray, scores: np.ndarray, excluded: Mapping[int, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's labels without the excluded ones, left-aligned."""
    for row, unwanted in excluded.items():
        kept = ~np.isin(labels[row], np.asarray(unwanted, np.int64)) & (labels[row] >= 0)
        order = np.argsort(~kept, kind="stable")
        labels[row] = np.where(kept[order], labels[row, order], -1)
        scores[row] = np.where(kept[order], scores[row, order], 0)
    return labels, scores
