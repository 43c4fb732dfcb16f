"""Why a label was predicted: the way down the tree, and the model's probability of each cluster on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cxml.data import Batch
from cxml.model import CascadeXML, LevelPrediction
from cxml.prediction.results import ExplainedLabel, PathNode
from cxml.tree import LabelTree


def explain_batch(
    model: CascadeXML, tree: LabelTree, batch: Batch, best: LevelPrediction, *, is_weighted: bool
) -> list[list[ExplainedLabel]]:
    """The way to each label that was predicted for the texts of a batch; names are left empty.

    Args:
        model: what predicted.
        tree: its tree.
        batch: B texts.
        best: labels [B, K] and their scores.
        is_weighted: whether a score is the label's probability times that of the cluster above it.
    """
    features = model.encoder(batch.input_ids, batch.attention_mask)
    labels = best.nodes.cpu().numpy()
    nodes, probabilities = [], []
    for level in range(len(tree.offsets)):
        of_label = tree.cluster_of_label(level)[np.maximum(labels, 0)].astype(np.int64)
        wanted = torch.from_numpy(of_label).to(best.nodes.device)
        logits: Tensor = model.cluster_heads[level](features[level][: len(labels)], wanted)
        nodes.append(of_label)
        probabilities.append(torch.sigmoid(logits.float()).cpu().numpy())
    scores = best.scores.cpu().numpy()
    own = scores / probabilities[-1] if is_weighted and nodes else scores
    sizes = [np.diff(tree.label_offsets(level)) for level in range(len(nodes))]

    def explained(row: int, place: int) -> ExplainedLabel:
        path = tuple(
            PathNode(level, node := int(nodes[level][row, place]), int(sizes[level][node]),
                     float(probabilities[level][row, place]))
            for level in range(len(nodes))
        )  # fmt: skip
        return ExplainedLabel(
            int(labels[row, place]), "", float(scores[row, place]), float(min(own[row, place], 1)), path
        )  # fmt: skip

    return [
        [explained(row, place) for place in range(labels.shape[1]) if labels[row, place] >= 0]
        for row in range(len(labels))
    ]
