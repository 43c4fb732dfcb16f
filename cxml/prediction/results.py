"""What a prediction gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NamedLabel:
    """A label that was predicted: its id, its name and its score in [0, 1]."""

    label: int
    name: str
    score: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """The best labels of N texts.

    Attributes:
        labels: int64 [N, K], label ids, best first; -1 where there is none.
        scores: float32 [N, K], in [0, 1]; 0 where there is none.
        names: name of each label id, shared with the model.
    """

    labels: np.ndarray
    scores: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> list[NamedLabel]:
        """The labels of one text."""
        pairs = zip(self.labels[row].tolist(), self.scores[row].tolist(), strict=True)
        return [NamedLabel(label, str(self.names[label]), score) for label, score in pairs if label >= 0]


@dataclass(frozen=True)
class PathNode:
    """A cluster on the way to a label.

    Attributes:
        level: of the tree, from 0.
        node: its number in the level.
        num_labels: labels in it.
        probability: that a label of it is true, as the model has it.
    """

    level: int
    node: int
    num_labels: int
    probability: float


@dataclass(frozen=True)
class ExplainedLabel:
    """A predicted label, its own probability, and the clusters above it, coarse to fine.

    `score` is the probability times that of the last cluster where the model weighs by it, else the probability.
    """

    label: int
    name: str
    score: float
    probability: float
    path: tuple[PathNode, ...]
