"""CascadeXML: one encoder, one classifier per level of the label tree, each level choosing the next one's shortlist.

Paper, section 3: level 0 scores all of its clusters; level l scores the children of the best nodes of level l - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxml.data import Batch
from cxml.model.encoder import TappedEncoder
from cxml.model.level_head import LevelHead
from cxml.model.shortlist import Shortlist, every_node, expand_children, is_positive, positive_keys, select_slots
from cxml.tree import LabelTree


@dataclass(frozen=True)
class LevelPrediction:
    """The best nodes of one level.

    Attributes:
        nodes: int64 [B, K], best first: nodes in tree order, or label ids at the last level; -1 where there is none.
        scores: float32 [B, K], probabilities; 0 where there is none.
    """

    nodes: Tensor
    scores: Tensor


class CascadeXML(nn.Module):
    """The model. `forward` is the training step's loss, or the prediction when `predict_k` is given.

    Both go through `forward` because a ZeRO-3 engine gathers weights only around module calls.
    """

    def __init__(
        self,
        encoder: TappedEncoder,
        tree: LabelTree,
        *,
        shortlist_sizes: tuple[int, ...] = (),
        level_weights: tuple[float, ...] = (),
        scoring: str = "weighted",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.level_sizes = tree.level_sizes
        self.shortlist_sizes = shortlist_sizes or (64,) * (len(self.level_sizes) - 1)
        self.level_weights = level_weights or (1.0,) * len(self.level_sizes)
        self.scoring = scoring
        self.heads = nn.ModuleList(LevelHead(size, encoder.hidden_size) for size in self.level_sizes)
        for level, offsets in enumerate(tree.offsets):
            self.register_buffer(f"offsets_{level}", torch.tensor(offsets, dtype=torch.int64), persistent=False)
        label_order = torch.tensor(tree.label_order, dtype=torch.int64)
        self.register_buffer("label_order", label_order, persistent=False)
        self.register_buffer("label_positions", torch.argsort(label_order), persistent=False)

    @property
    def tree_offsets(self) -> list[Tensor]:
        """Children ranges of each cluster level, coarse to fine, on the model's device."""
        return [self.get_buffer(f"offsets_{level}") for level in range(len(self.level_sizes) - 1)]

    def forward(self, batch: Batch, predict_k: int | None = None) -> tuple[Tensor, Tensor] | list[LevelPrediction]:
        """Training: the summed loss and the summed loss of each level. Prediction: the best nodes of each level.

        Args:
            batch: B texts; labels are read in training only.
            predict_k: nodes wanted per level; None in training.

        Returns:
            In training a scalar, summed over the texts and weighted over the levels, and float32 [levels], detached.
            In prediction one `LevelPrediction` per level, labels last.
        """
        features = self.encoder(batch.input_ids, batch.attention_mask)
        if predict_k is None:
            return self._loss(features, batch)
        return self._predict(features, predict_k)

    def _loss(self, features: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        keys = positive_keys(
            self.label_positions[batch.label_values], batch.label_offsets, self.tree_offsets, self.level_sizes[-1]
        )
        shortlist = every_node(self.level_sizes[0], batch.size, batch.input_ids.device)
        losses = []
        for level, feature in enumerate(features):
            logits = self.heads[level](feature, shortlist.nodes if level else None)
            is_true = is_positive(shortlist, keys[level], self.level_sizes[level])
            losses.append(shortlist_loss(logits, is_true, shortlist.mask))
            if level < len(self.shortlist_sizes):
                shortlist = self._next_shortlist(level, shortlist, logits, is_true)
        by_level = torch.stack(losses)
        return by_level @ by_level.new_tensor(self.level_weights), by_level.detach()

    def _predict(self, features: list[Tensor], k: int) -> list[LevelPrediction]:
        shortlist = every_node(self.level_sizes[0], len(features[0]), features[0].device)
        above = torch.ones_like(shortlist.nodes, dtype=torch.float32)
        predictions = []
        for level, feature in enumerate(features):
            logits = self.heads[level](feature, shortlist.nodes if level else None).float()
            own = torch.sigmoid(logits)
            scores = own * above.gather(1, shortlist.parent_slots) if self.scoring == "weighted" else own
            predictions.append(_best(scores, shortlist, k))
            above = own
            if level < len(self.shortlist_sizes):
                shortlist = self._next_shortlist(level, shortlist, logits, None)
        predictions[-1] = self._in_label_ids(predictions[-1])
        return predictions

    def _next_shortlist(self, level: int, shortlist: Shortlist, logits: Tensor, is_true: Tensor | None) -> Shortlist:
        slots, mask = select_slots(logits, shortlist.mask, self.shortlist_sizes[level], is_true)
        return expand_children(self.tree_offsets[level], shortlist, slots, mask)

    def _in_label_ids(self, prediction: LevelPrediction) -> LevelPrediction:
        found = prediction.nodes >= 0
        labels = self.label_order[prediction.nodes.clamp(min=0)].masked_fill(~found, -1)
        return LevelPrediction(nodes=labels, scores=prediction.scores)


def shortlist_loss(logits_BC: Tensor, is_true_BC: Tensor, mask_BC: Tensor) -> Tensor:
    """Binary cross-entropy: the mean over each text's shortlist, summed over the texts, in float32.

    Each text's mean is over its own shortlist, not over the padded width, so the sum over a batch does not depend
    on how the batch is cut over processes and micro-batches (docs/decisions/0002).
    """
    terms = F.binary_cross_entropy_with_logits(logits_BC.float(), is_true_BC.float(), reduction="none")
    return ((terms * mask_BC).sum(1) / mask_BC.sum(1)).sum()


def _best(scores_BC: Tensor, shortlist: Shortlist, k: int) -> LevelPrediction:
    ranking = scores_BC.masked_fill(~shortlist.mask, -1.0)
    best = ranking.topk(min(k, ranking.shape[1]), dim=1)
    found = best.values >= 0
    nodes = shortlist.nodes.gather(1, best.indices).masked_fill(~found, -1)
    return LevelPrediction(nodes=nodes, scores=best.values.clamp(min=0))
