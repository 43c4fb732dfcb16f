"""Explain predictions: the path down the tree to each label, with the model's probability of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxml.data import Batch
from cxml.model import CascadeXML, LevelPrediction
from cxml.model.ranking import probabilities
from cxml.prediction.results import ExplainedLabel, PathNode, Predictions
from cxml.tree import LabelTree


def explain_batch(
    model: CascadeXML, tree: LabelTree, batch: Batch, best: LevelPrediction, *, is_weighted: bool
) -> list[list[ExplainedLabel]]:
    """The path to each predicted label of a batch; names are left empty.

    Args:
        model: the model.
        tree: its tree.
        batch: B texts.
        best: labels [B, K] and the logits of their scores.
        is_weighted: whether a score is the label's probability times that of the cluster above it.
    """
    features = model.encoder(batch.input_ids, batch.attention_mask, batch.windows)
    labels = best.nodes.cpu().numpy()
    nodes, logits = [], []
    for level in range(len(tree.offsets)):
        of_label = tree.cluster_of_label(level)[np.maximum(labels, 0)].astype(np.int64)
        wanted = torch.from_numpy(of_label).to(best.nodes.device)
        of_cluster: Tensor = model.cluster_heads[level](features[level][: len(labels)], wanted)
        nodes.append(of_label)
        logits.append(of_cluster.float())
    clusters = [probabilities(of_level).numpy() for of_level in logits]
    scores = best.scores.numpy()
    own = _quotient(best.logits, logits[-1]) if is_weighted and nodes else scores
    sizes = [np.diff(tree.label_offsets(level)) for level in range(len(nodes))]

    def explained(row: int, place: int) -> ExplainedLabel:
        path = tuple(
            PathNode(level, node := int(nodes[level][row, place]), int(sizes[level][node]),
                     float(clusters[level][row, place]))
            for level in range(len(nodes))
        )  # fmt: skip
        return ExplainedLabel(
            int(labels[row, place]), "", float(scores[row, place]), float(own[row, place]), path
        )  # fmt: skip

    return [
        [explained(row, place) for place in range(labels.shape[1]) if labels[row, place] >= 0]
        for row in range(len(labels))
    ]


def in_ranking(
    explained: Sequence[Sequence[ExplainedLabel]], ranking: Predictions, label_ids: np.ndarray
) -> list[list[ExplainedLabel]]:
    """The explained labels of each text in the order of a ranking, with its label ids, names, titles and scores.

    Args:
        explained: of each text, see `explain_batch`; contains all labels of the ranking.
        ranking: labels of the same texts.
        label_ids: id of each label of the tree, int64 [L].
    """
    found = []
    for row, labels in enumerate(explained):
        by_id = {int(label_ids[label.label]): label for label in labels}
        found.append([replace(by_id[best.label], **vars(best)) for best in ranking[row]])
    return found


def _quotient(logits: Tensor, divisor_logits: Tensor) -> np.ndarray:
    """Quotients of probabilities, at most 1, float64; accurate also below the range of float32."""
    logarithm = functional.logsigmoid(logits.cpu().double()) - functional.logsigmoid(divisor_logits.cpu().double())
    return logarithm.clamp(max=0).exp().numpy()
