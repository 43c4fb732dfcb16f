"""The model's prediction per level, and its copy to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxml.model.ranking import probabilities


@dataclass(frozen=True)
class LevelPrediction:
    """The best nodes of one level.

    Attributes:
        nodes: int64 [B, K], best first: nodes in tree order, or label ids at the last level; -1 for none.
        logits: logits of the scores, float32 [B, K]; -inf for none.
        selected: int64 [B, K'], the clusters whose children the next level scores, -1 for none; None for the labels.
        features: input features of the label level, float [B, D], on the model's device; None for clusters.
    """

    nodes: Tensor
    logits: Tensor
    selected: Tensor | None = None
    features: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """Probabilities, float32 [B, K] on the CPU; 0 for none."""
        return probabilities(self.logits)


def on_host(levels: Sequence[LevelPrediction]) -> list[LevelPrediction]:
    """Copy predictions to host memory, except features.

    All tensors are copied from an accelerator at once, because the host waits for each copy.
    """
    if levels[0].nodes.device.type == "cpu":
        return list(levels)
    parts = [part for level in levels for part in (level.nodes, level.logits.view(torch.int32), level.selected)]
    there = [part for part in parts if part is not None]
    copied = torch.cat(there, dim=1).cpu().split([part.shape[1] for part in there], dim=1)
    found, levels_on_host = iter(copied), []
    for level in levels:
        nodes, logits = next(found), next(found).int().view(torch.float32)
        selected = None if level.selected is None else next(found)
        levels_on_host.append(LevelPrediction(nodes, logits, selected, level.features))
    return levels_on_host


def host_features(labels: LevelPrediction, count: int) -> np.ndarray:
    """Input features of the label level for the first `count` texts, float32 [count, D], in host memory."""
    assert labels.features is not None, "of the labels"
    return labels.features[:count].float().cpu().numpy()
