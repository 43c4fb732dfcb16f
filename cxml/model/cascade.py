"""CascadeXML: one encoder and one classifier per level of the label tree. Each level selects the next one's shortlist.

Paper, section 3: level 0 scores all of its clusters; level l scores the children of the best nodes of level l - 1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from cxml.data import Batch, BatchLimits
from cxml.fused import is_fused
from cxml.internals.torch import with_modules
from cxml.model.encoder import TappedEncoder
from cxml.model.heads import (
    ClusterLevel,
    EngineHead,
    LabelHead,
    Leaves,
    LevelHead,
    Rows,
    SelectionRule,
    scores_whole_level,
)
from cxml.model.level_prediction import LevelPrediction
from cxml.model.shortlist import (
    Shortlist,
    every_node,
    expand_children,
    is_positive,
    most_children,
    positive_keys,
    select_slots,
    shortlist_loss,
)
from cxml.tree import LabelTree

_BLOCK_ROWS = 65536


class CascadeXML(nn.Module):
    """The model. `forward` computes the training loss, or the prediction if `predict_k` is given.

    Both use `forward`, because a ZeRO-3 engine gathers weights only around module calls.
    """

    def __init__(
        self,
        encoder: TappedEncoder,
        tree: LabelTree,
        *,
        label_head: LabelHead | None = None,
        cluster_levels: Sequence[ClusterLevel] = (),
        shortlist_sizes: tuple[int, ...] = (),
        level_weights: tuple[float, ...] = (),
        scoring: str = "weighted",
        teacher_forcing: bool = True,
    ) -> None:
        """Build the levels above the labels.

        Args:
            encoder: computes the features of each level.
            tree: the label tree.
            label_head: head of the labels; None for ordinary parameters.
            cluster_levels: heads of the last cluster levels; those above them are ordinary parameters.
            shortlist_sizes: nodes that each level above the labels selects.
            level_weights: weights of the levels' losses.
            scoring: `weighted` multiplies a node's probability by its parent's.
            teacher_forcing: select true nodes first.
        """
        super().__init__()
        self.encoder = encoder
        self.level_sizes = tree.level_sizes
        self.shortlist_sizes = shortlist_sizes or (64,) * len(tree.offsets)
        self.level_weights = level_weights or (1.0,) * len(self.level_sizes)
        self.scoring = scoring
        self.teacher_forcing = teacher_forcing
        self.cluster_levels = tuple(cluster_levels)
        num_heads = len(self.level_sizes) - 1 - len(self.cluster_levels)
        self.cluster_heads = nn.ModuleList(
            LevelHead(size, width)
            for size, width in zip(self.level_sizes[:num_heads], encoder.feature_sizes[:num_heads], strict=True)
        )
        self.register_buffer("loss_weights", torch.tensor(self.level_weights), persistent=False)
        flat, starts = np.concatenate([np.zeros(0, np.int64), *tree.offsets]), np.cumsum([0, *map(len, tree.offsets)])
        self.register_buffer("offsets", torch.tensor(flat, dtype=torch.int64), persistent=False)
        self.register_buffer("offset_starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self._offset_starts: list[int] = starts.tolist()
        label_order = torch.tensor(tree.label_order, dtype=torch.int64)
        self.register_buffer("label_order", label_order, persistent=False)
        self.register_buffer("label_positions", torch.argsort(label_order), persistent=False)
        leaf_offsets = torch.tensor(tree.offsets[-1] if tree.offsets else [0, tree.num_labels], dtype=torch.int64)
        self.label_head = label_head or EngineHead(
            leaf_offsets, tree.num_labels, encoder.feature_sizes[-1], _BLOCK_ROWS
        )
        self._most_children = [most_children(offsets) for offsets in self.tree_offsets[: num_heads - 1]]

    @property
    def tree_offsets(self) -> list[Tensor]:
        """Children ranges of each cluster level, coarse to fine, on the model's device."""
        offsets = self.get_buffer("offsets")
        return [offsets[start:end] for start, end in pairwise(self._offset_starts)]

    def predicting_with(self, encoder: TappedEncoder) -> CascadeXML:
        """A model for prediction with a given encoder, and everything else in float32.

        Weights that are in float32 already are shared with this model, which is not changed.
        """
        return with_modules(self, {"encoder": encoder, "cluster_heads": _in_float32(self.cluster_heads)})

    def is_bounded(self) -> Tensor | None:
        """Whether the updates pending until the end of the step are surely finite, bool []; None if none is pending."""
        found = [bounded for rows in self._rows if (bounded := rows.is_bounded()) is not None]
        if len(found) > 1:
            return torch.stack(found).all()
        return found[0] if found else None

    def finish_step(self, is_finite: Tensor) -> None:
        """Apply the updates prepared by a step's micro-batches, unless bool [] `is_finite` is False."""
        for rows in self._rows:
            rows.finish_step(is_finite)

    @property
    def _rows(self) -> tuple[Rows, ...]:
        """The levels that the engine does not update, including the labels."""
        return (*self.cluster_levels, self.label_head)

    def positive_keys(self, batch: Batch) -> list[Tensor]:
        """The true nodes of every level, labels last: sorted keys `text * nodes of the level + node`, int64."""
        positions = self.get_buffer("label_positions")
        if not is_fused(positions):
            own = positions[batch.label_values]
            return positive_keys(own, batch.label_offsets, self.tree_offsets, self.level_sizes[-1])
        from cxml.model import triton_shortlist_ops  # noqa: PLC0415 - optional

        keys = positions.new_empty(len(self.level_sizes), len(batch.label_values))
        offsets, starts = self.get_buffer("offsets"), self.get_buffer("offset_starts")
        triton_shortlist_ops.launch_positive_keys(
            keys, batch.label_values, positions, batch.label_offsets, offsets, starts
        )
        return list(keys)

    def forward(
        self, batch: Batch, predict_k: int | None = None, beam: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor] | list[LevelPrediction]:
        """Training: the summed loss and the summed loss of each level. Prediction: the best nodes of each level.

        Args:
            batch: B texts; labels are used in training only.
            predict_k: number of nodes per level; None in training.
            beam: beam width of each level above the labels in prediction; empty uses `shortlist_sizes`.

        Returns:
            In training a scalar, summed over the texts and weighted over the levels, and float32 [levels], detached.
            In prediction one `LevelPrediction` per level, labels last.
        """
        features = self.encoder(batch.input_ids, batch.attention_mask, batch.windows)
        if predict_k is None:
            return self._loss(features, batch)
        return self._predict(features, predict_k, beam or self.shortlist_sizes, batch.limits)

    def _loss(self, features: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        *cluster_keys, label_keys = self.positive_keys(batch)
        losses: list[Tensor] = []
        leaves = None
        for level, keys in enumerate(cluster_keys):
            loss, leaves = self._cluster_loss(level, features[level], leaves, keys, batch=batch, losses=losses)
            losses.append(loss)
        scale = self.level_weights[-1] / batch.global_size
        losses.append(
            self.label_head.loss(features[-1], leaves, label_keys, scale, losses_above=losses, limits=batch.limits)
        )
        by_level = torch.stack(losses)
        return by_level @ self.get_buffer("loss_weights").to(by_level.dtype), by_level.detach()

    def _cluster_loss(
        self, level: int, features_BD: Tensor, above: Leaves | None, keys: Tensor, *, batch: Batch, losses: list[Tensor]
    ) -> tuple[Tensor, Leaves]:
        """Loss of a cluster level, and the nodes that it selects; `losses` are of the levels above."""
        wanted = SelectionRule(self.shortlist_sizes[level], self.teacher_forcing, batch.limits.labels_of_a_text)
        if level >= len(self.cluster_heads):
            own, scale = (
                self.cluster_levels[level - len(self.cluster_heads)],
                self.level_weights[level] / batch.global_size,
            )
            return own.loss_and_choice(
                features_BD, above, keys, scale, wanted, losses_above=losses, limits=batch.limits
            )
        if is_fused(features_BD):
            return self._fused_loss(level, features_BD, above, keys, wanted)
        shortlist = self._shortlist(level, above, features_BD)
        logits = self._cluster_logits(level, features_BD, shortlist)
        is_true = is_positive(shortlist, keys, self.level_sizes[level])
        loss = shortlist_loss(logits, is_true, shortlist.mask)
        return loss, self._select_nodes(wanted, shortlist, logits, is_true if wanted.is_forced else None)

    def _fused_loss(
        self, level: int, features_BD: Tensor, above: Leaves | None, keys: Tensor, wanted: SelectionRule
    ) -> tuple[Tensor, Leaves]:
        from cxml.model.fused_level import loss_and_choice  # noqa: PLC0415 - optional

        logits, shortlist = self._fused_logits(level, features_BD, above)
        return loss_and_choice(logits, shortlist, keys, self.level_sizes[level], wanted)

    def _fused_logits(
        self, level: int, features_BD: Tensor, above: Leaves | None
    ) -> tuple[Tensor, Shortlist | None]:  # fmt: skip
        """Logits of the level's nodes or of the shortlist's, and the shortlist; None for all nodes."""
        shortlist = None if above is None else self._shortlist(level, above, features_BD)
        nodes = None if shortlist is None else shortlist.nodes
        is_whole = nodes is None or scores_whole_level(self.level_sizes[level], nodes)
        return self.cluster_heads[level](features_BD, None if is_whole else nodes), shortlist

    def _predict(
        self, features: list[Tensor], k: int, beam: tuple[int, ...], limits: BatchLimits
    ) -> list[LevelPrediction]:
        predictions = []
        leaves = None
        is_weighted = self.scoring == "weighted"
        for level in range(len(self.level_sizes) - 1):
            wanted = SelectionRule(beam[level])
            if level < len(self.cluster_heads):
                nodes, scores, leaves = self._best_and_choice(level, features[level], leaves, k, wanted)
            else:
                own = self.cluster_levels[level - len(self.cluster_heads)]
                nodes, scores, leaves = own.best_and_choice(
                    features[level], leaves, k, wanted, weighted=is_weighted, limits=limits
                )
            selected = leaves.nodes.masked_fill(~leaves.mask, -1)
            predictions.append(LevelPrediction(nodes, scores, selected))
        positions, logits = self.label_head.predict(features[-1], leaves, k, weighted=is_weighted, limits=limits)
        labels = self.get_buffer("label_order")[positions.clamp(min=0)].masked_fill(positions < 0, -1)
        return [*predictions, LevelPrediction(labels, logits, features=features[-1])]

    def _best_and_choice(
        self, level: int, features_BD: Tensor, above: Leaves | None, k: int, wanted: SelectionRule
    ) -> tuple[Tensor, Tensor, Leaves]:
        """The best nodes of a cluster level with their scores, and the nodes that it selects."""
        parents = above.logits if self.scoring == "weighted" and above is not None else None
        if is_fused(features_BD):
            from cxml.model.fused_level import best_and_choice  # noqa: PLC0415 - optional

            logits, shortlist = self._fused_logits(level, features_BD, above)
            return best_and_choice(logits, shortlist, parents, k, wanted)
        shortlist = self._shortlist(level, above, features_BD)
        logits = self._cluster_logits(level, features_BD, shortlist)
        return *shortlist.best(logits, parents, k), self._select_nodes(wanted, shortlist, logits, None)

    def _shortlist(self, level: int, above: Leaves | None, features_BD: Tensor) -> Shortlist:
        if above is None:
            return every_node(self.level_sizes[0], len(features_BD), features_BD.device)
        offsets = self.tree_offsets[level - 1]
        return expand_children(offsets, above.nodes, above.mask, self._most_children[level - 1])

    def _cluster_logits(self, level: int, features_BD: Tensor, shortlist: Shortlist) -> Tensor:
        return self.cluster_heads[level](features_BD, shortlist.nodes if level else None)

    def _select_nodes(
        self, wanted: SelectionRule, shortlist: Shortlist, logits_BC: Tensor, is_true: Tensor | None
    ) -> Leaves:
        slots, mask = select_slots(logits_BC, shortlist.mask, wanted.size, is_true, wanted.most_true)
        nodes = shortlist.nodes.gather(1, slots).masked_fill(~mask, 0)
        return Leaves(nodes=nodes, mask=mask, logits=logits_BC.detach().gather(1, slots).float())


def _in_float32(modules: nn.ModuleList) -> nn.ModuleList:
    """The modules if their weights are float32, else a copy."""
    if all(parameter.dtype == torch.float32 for parameter in modules.parameters()):
        return modules
    return copy.deepcopy(modules).float()
