"""CascadeXML: one encoder, one classifier per level of the label tree, each level choosing the next one's shortlist.

Paper, section 3: level 0 scores all of its clusters; level l scores the children of the best nodes of level l - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxml.data import Batch
from cxml.model.encoder import TappedEncoder
from cxml.model.label_head import EngineHead, LabelHead, Leaves
from cxml.model.level_head import LevelHead
from cxml.model.ranking import probabilities
from cxml.model.shortlist import (
    Shortlist,
    every_node,
    expand_children,
    is_positive,
    positive_keys,
    select_slots,
    shortlist_loss,
)
from cxml.tree import LabelTree

_BLOCK_ROWS = 65536


@dataclass(frozen=True)
class LevelPrediction:
    """The best nodes of one level.

    Attributes:
        nodes: int64 [B, K], best first: nodes in tree order, or label ids at the last level; -1 where there is none.
        logits: float32 [B, K], of the scores; -inf where there is none.
        handed_down: int64 [B, K'], the clusters whose children the next level scores, -1 for none; None for the labels.
    """

    nodes: Tensor
    logits: Tensor
    handed_down: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """Probabilities, float32 [B, K] on the CPU; 0 where there is none."""
        return probabilities(self.logits)


class CascadeXML(nn.Module):
    """The model. `forward` is the training step's loss, or the prediction when `predict_k` is given.

    Both go through `forward` because a ZeRO-3 engine gathers weights only around module calls.
    """

    def __init__(
        self,
        encoder: TappedEncoder,
        tree: LabelTree,
        *,
        label_head: LabelHead | None = None,
        shortlist_sizes: tuple[int, ...] = (),
        level_weights: tuple[float, ...] = (),
        scoring: str = "weighted",
        teacher_forcing: bool = True,
    ) -> None:
        """Build the levels above the labels; `label_head` scores the labels, one of ordinary parameters if None."""
        super().__init__()
        self.encoder = encoder
        self.level_sizes = tree.level_sizes
        self.shortlist_sizes = shortlist_sizes or (64,) * len(tree.offsets)
        self.level_weights = level_weights or (1.0,) * len(self.level_sizes)
        self.scoring = scoring
        self.teacher_forcing = teacher_forcing
        self.cluster_heads = nn.ModuleList(LevelHead(size, encoder.hidden_size) for size in self.level_sizes[:-1])
        for level, offsets in enumerate(tree.offsets):
            self.register_buffer(f"offsets_{level}", torch.tensor(offsets, dtype=torch.int64), persistent=False)
        label_order = torch.tensor(tree.label_order, dtype=torch.int64)
        self.register_buffer("label_order", label_order, persistent=False)
        self.register_buffer("label_positions", torch.argsort(label_order), persistent=False)
        leaf_offsets = torch.tensor(tree.offsets[-1] if tree.offsets else [0, tree.num_labels], dtype=torch.int64)
        self.label_head = label_head or EngineHead(leaf_offsets, tree.num_labels, encoder.hidden_size, _BLOCK_ROWS)

    @property
    def tree_offsets(self) -> list[Tensor]:
        """Children ranges of each cluster level, coarse to fine, on the model's device."""
        return [self.get_buffer(f"offsets_{level}") for level in range(len(self.level_sizes) - 1)]

    def positive_keys(self, batch: Batch) -> list[Tensor]:
        """The true nodes of every level, labels last: sorted keys `text * nodes of the level + node`, int64."""
        positions = self.get_buffer("label_positions")[batch.label_values]
        return positive_keys(positions, batch.label_offsets, self.tree_offsets, self.level_sizes[-1])

    def forward(
        self, batch: Batch, predict_k: int | None = None, beam: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor] | list[LevelPrediction]:
        """Training: the summed loss and the summed loss of each level. Prediction: the best nodes of each level.

        Args:
            batch: B texts; labels are read in training only.
            predict_k: nodes wanted per level; None in training.
            beam: in prediction, nodes that each level above the labels hands down; empty takes `shortlist_sizes`.

        Returns:
            In training a scalar, summed over the texts and weighted over the levels, and float32 [levels], detached.
            In prediction one `LevelPrediction` per level, labels last.
        """
        features = self.encoder(batch.input_ids, batch.attention_mask)
        if predict_k is None:
            return self._loss(features, batch)
        return self._predict(features, predict_k, beam or self.shortlist_sizes)

    def _loss(self, features: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        *cluster_keys, label_keys = self.positive_keys(batch)
        losses: list[Tensor] = []
        leaves = None
        for level, keys in enumerate(cluster_keys):
            shortlist = self._shortlist(level, leaves, features[level])
            logits = self._cluster_logits(level, features[level], shortlist)
            is_true = is_positive(shortlist, keys, self.level_sizes[level])
            losses.append(shortlist_loss(logits, is_true, shortlist.mask))
            forced = is_true if self.teacher_forcing else None
            leaves = self._hand_down(self.shortlist_sizes[level], shortlist, logits, forced)
        scale = self.level_weights[-1] / batch.global_size
        above = torch.stack(losses).detach() if losses else None
        losses.append(self.label_head.loss(features[-1], leaves, label_keys, scale, above))
        by_level = torch.stack(losses)
        return by_level @ by_level.new_tensor(self.level_weights), by_level.detach()

    def _predict(self, features: list[Tensor], k: int, beam: tuple[int, ...]) -> list[LevelPrediction]:
        predictions = []
        leaves = None
        is_weighted = self.scoring == "weighted"
        for level in range(len(self.cluster_heads)):
            shortlist = self._shortlist(level, leaves, features[level])
            logits = self._cluster_logits(level, features[level], shortlist)
            best = shortlist.best(logits, leaves.logits if is_weighted and leaves is not None else None, k)
            leaves = self._hand_down(beam[level], shortlist, logits, None)
            handed_down = leaves.nodes.masked_fill(~leaves.mask, -1)
            predictions.append(LevelPrediction(*best, handed_down))
        positions, logits = self.label_head.predict(features[-1], leaves, k, weighted=is_weighted)
        labels = self.get_buffer("label_order")[positions.clamp(min=0)].masked_fill(positions < 0, -1)
        return [*predictions, LevelPrediction(labels, logits)]

    def _shortlist(self, level: int, above: Leaves | None, features_BD: Tensor) -> Shortlist:
        if above is None:
            return every_node(self.level_sizes[0], len(features_BD), features_BD.device)
        return expand_children(self.tree_offsets[level - 1], above.nodes, above.mask)

    def _cluster_logits(self, level: int, features_BD: Tensor, shortlist: Shortlist) -> Tensor:
        return self.cluster_heads[level](features_BD, shortlist.nodes if level else None)

    def _hand_down(self, size: int, shortlist: Shortlist, logits_BC: Tensor, is_true: Tensor | None) -> Leaves:
        slots, mask = select_slots(logits_BC, shortlist.mask, size, is_true)
        nodes = shortlist.nodes.gather(1, slots).masked_fill(~mask, 0)
        return Leaves(nodes=nodes, mask=mask, logits=logits_BC.detach().gather(1, slots).float())
