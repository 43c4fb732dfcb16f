"""Results of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NamedLabel:
    """A predicted label: its id, its name, its score in [0, 1], and its title if labels have titles."""

    label: int
    name: str
    score: float
    title: str | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """The best labels of N texts.

    Attributes:
        labels: int64 [N, K], label ids, best first; -1 for none.
        scores: float32 [N, K], in [0, 1]; 0 for none.
        names: name of each label id, shared with the model.
        titles: title of each label id, likewise; None where the data had no labels file.
    """

    labels: np.ndarray
    scores: np.ndarray
    names: Sequence[str] = field(repr=False)  # up to millions
    titles: Sequence[str] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> list[NamedLabel]:
        """The labels of one text."""
        pairs = zip(self.labels[row].tolist(), self.scores[row].tolist(), strict=True)
        return [
            NamedLabel(label, str(self.names[label]), score, str(self.titles[label]) if self.titles else None)
            for label, score in pairs
            if label >= 0
        ]


@dataclass(frozen=True)
class PathNode:
    """A cluster on the path to a label.

    Attributes:
        level: level of the tree, from 0.
        node: number of the cluster in its level.
        num_labels: number of labels in the cluster.
        probability: the model's probability that a label of the cluster is true.
    """

    level: int
    node: int
    num_labels: int
    probability: float


@dataclass(frozen=True)
class ExplainedLabel:
    """A predicted label, its own probability, and the clusters above it, coarse to fine.

    `score` is the probability times that of the last cluster with weighted scoring, else the probability.
    """

    label: int
    name: str
    score: float
    probability: float
    path: tuple[PathNode, ...]
    title: str | None = None


def as_values(label: NamedLabel | ExplainedLabel) -> dict[str, Any]:
    """The fields of a label by name, to be written as JSON; without a title where labels have none."""
    return {name: value for name, value in vars(label).items() if value is not None}
