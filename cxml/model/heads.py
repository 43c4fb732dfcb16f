"""The classifiers of the cluster levels and of the labels, whose size grows with the number of labels.

`LevelHead` scores a cluster level. `LabelHead` is the interface of the label head. It gets features and leaf clusters
instead of labels: a leaf's labels are a contiguous range of positions, so a leaf id represents all of them.
`EngineHead` is part of the model, as row blocks that a ZeRO-3 engine partitions and gathers one at a time.
`cxml.parallel.ShardedLevel` keeps its rows in place and sends features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cxml.data import BatchLimits
from cxml.model.shortlist import Shortlist, every_node, expand_children, is_positive, most_children, shortlist_loss

INITIAL_BIAS = -4.0
"""Few nodes are true for a text, so the initial probability is small instead of one half."""
LABEL_BLOCK = re.compile(r"label_head\.blocks\.(\d+)\.(weight|bias)")
"""Names of the parameters of an `EngineHead` in the model: number of the block, and which of its two tensors."""
_INITIAL_STD = 0.02


class LevelHead(nn.Module):
    """Scores nodes of one level: `logit = W[node] . feature + b[node]` with `W` [n, D] and `b` [n]."""

    def __init__(self, num_nodes: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_nodes, hidden_size).normal_(std=_INITIAL_STD))
        self.bias = nn.Parameter(torch.full((num_nodes,), INITIAL_BIAS))

    def forward(self, features_BD: Tensor, nodes_BC: Tensor | None) -> Tensor:
        """Logits [B, C] of the shortlisted nodes, or [B, n] of all nodes if `nodes_BC` is None."""
        if nodes_BC is None:
            return F.linear(features_BD, self.weight, self.bias)
        if scores_whole_level(len(self.weight), nodes_BC):
            return F.linear(features_BD, self.weight, self.bias).gather(1, nodes_BC)
        rows_BCD = F.embedding(nodes_BC, self.weight)
        products_BC = torch.bmm(rows_BCD, features_BD.unsqueeze(-1)).squeeze(-1)
        return products_BC + self.bias[nodes_BC]


def scores_whole_level(num_nodes: int, nodes_BC: Tensor) -> bool:
    """Whether scoring all nodes of a level is faster than scoring only the shortlists.

    One matrix product over all rows moves less memory than a copy of one row per text and node, up to about as many
    rows as pairs (measured: a tenth of the time at 4,096 nodes, 64 texts and 512 nodes each).
    """
    return num_nodes <= nodes_BC.numel()


@dataclass(frozen=True)
class Leaves:
    """The leaf clusters to score for each text.

    Attributes:
        nodes: int64 [B, K], unique leaf ids per text; 0 if the mask is False.
        mask: bool [B, K].
        logits: logits of the leaves, float32 [B, K].
    """

    nodes: Tensor
    mask: Tensor
    logits: Tensor

    def to(self, device: torch.device) -> Leaves:
        """Copy to a device."""
        return Leaves(self.nodes.to(device), self.mask.to(device), self.logits.to(device))


@dataclass(frozen=True)
class SelectionRule:
    """The number of nodes that a cluster level selects for the next level.

    Attributes:
        size: nodes per text; more if more are true.
        is_forced: true nodes come first (teacher forcing).
        most_true: upper bound of the true nodes of any text, equal on all ranks.
    """

    size: int
    is_forced: bool = False
    most_true: int = 0

    @property
    def most(self) -> int:
        """Most nodes per text."""
        return max(self.size, self.most_true) if self.is_forced else self.size


class Rows(Protocol):
    """The rows of a level, each a weight and a bias; positions are in tree order."""

    def is_bounded(self) -> Tensor | None:
        """Whether the update pending until the end of the step is surely finite, bool []; None if none is pending."""
        ...

    def finish_step(self, is_finite: Tensor) -> None:
        """Apply the update prepared by a step's micro-batches, if the head updates itself.

        Args:
            is_finite: bool [], equal on all ranks; False skips the update.
        """
        ...

    def own_positions(self) -> Tensor:
        """The label position of each row of this process, int64 [n]."""
        ...

    def gather_positives(self, features_BD: Tensor, positive_keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of texts, float32 [B', D], and their true pairs (text, own row), two int64 [P]."""
        ...

    def sum_over_replicas(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes with the same rows, which gathered other texts."""
        ...

    def import_rows(self, positions: Tensor, weight: Tensor, bias: Tensor) -> int:
        """Load the rows that belong to this process. Returns their number.

        Args:
            positions: label positions, int64 [n].
            weight: float [n, D].
            bias: float [n].
        """
        ...


class LabelHead(Rows, Protocol):
    """The head of the labels."""

    def loss(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        positive_keys: Tensor,
        scale: float,
        *,
        losses_above: Sequence[Tensor] | None = None,
        limits: BatchLimits | None = None,
    ) -> Tensor:
        """Binary cross-entropy, averaged over the labels of each text's leaves (all labels if None), summed over texts.

        Args:
            features_BD: features, in the encoder's dtype.
            leaves: leaves whose labels are scored; true labels in no leaf are ignored.
            positive_keys: sorted keys `text * L + label position` of the true labels, int64 [P].
            scale: factor of the loss per text of the whole step, which the caller applies; a head that updates itself
                uses it as the factor of its gradient.
            losses_above: losses of the levels above, float32 [] each. A head that updates itself skips the update if
                one of them is not finite on any rank, or if its own update may not be finite.
            limits: upper bounds of the batches of all ranks; with None, several accelerators exchange their sizes.
        """
        ...

    def predict(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        k: int,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k best labels among those of the leaves.

        Returns:
            Label positions int64 [B, k] and the logits of their scores float32 [B, k], best first, padded with -1 and
            -inf. With `weighted`, a score is the label's probability times its leaf's. See `cxml.model.ranking`.
        """
        ...


class ClusterLevel(Rows, Protocol):
    """A cluster level without ordinary parameters. Nodes are positions in tree order."""

    def loss_and_choice(
        self,
        features_BD: Tensor,
        above: Leaves | None,
        positive_keys: Tensor,
        scale: float,
        selection: SelectionRule,
        *,
        losses_above: Sequence[Tensor] | None = None,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Leaves]:
        """The loss, see `LabelHead.loss`, and the selected nodes.

        Args:
            features_BD: features, in the encoder's dtype.
            above: the nodes that the level above selected, whose children are scored; None scores all nodes.
            positive_keys: sorted keys `text * nodes of the level + node` of the true nodes, int64 [P].
            scale: see `LabelHead.loss`.
            selection: the nodes to select.
            losses_above: see `LabelHead.loss`.
            limits: see `LabelHead.loss`.
        """
        ...

    def best_and_choice(
        self,
        features_BD: Tensor,
        above: Leaves | None,
        k: int,
        selection: SelectionRule,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Tensor, Leaves]:
        """The k best nodes, see `LabelHead.predict`, and the selected nodes."""
        ...


class EngineHead(nn.Module):
    """A head with ordinary parameters in blocks of rows, which the engine trains and, with ZeRO-3, partitions.

    Blocks are gathered, used and released one at a time, so at most one block is in memory.
    """

    def __init__(self, leaf_offsets: Tensor, num_labels: int, hidden_size: int, block_rows: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.block_rows = block_rows
        self.blocks = nn.ModuleList(
            LevelHead(min(block_rows, num_labels - start), hidden_size) for start in range(0, num_labels, block_rows)
        )
        self.register_buffer("leaf_offsets", leaf_offsets, persistent=False)
        self._most_labels = most_children(leaf_offsets)

    def loss(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        positive_keys: Tensor,
        scale: float,  # noqa: ARG002
        *,
        losses_above: Sequence[Tensor] | None = None,  # noqa: ARG002
        limits: BatchLimits | None = None,  # noqa: ARG002
    ) -> Tensor:
        """See `LabelHead.loss`; the engine scales the gradient."""
        shortlist = self._labels_of(leaves, len(features_BD))
        is_true = is_positive(shortlist, positive_keys, self.num_labels)
        return shortlist_loss(self._logits(features_BD, shortlist), is_true, shortlist.mask)

    def predict(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        k: int,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """See `LabelHead.predict`."""
        shortlist = self._labels_of(leaves, len(features_BD))
        parents = leaves.logits if weighted and leaves is not None else None
        return shortlist.best(self._logits(features_BD, shortlist), parents, k)

    def is_bounded(self) -> None:
        """No update is ever pending."""

    def finish_step(self, is_finite: Tensor) -> None:
        """Do nothing: the engine updates the blocks."""

    def own_positions(self) -> Tensor:
        """All positions, before an engine partitions the blocks."""
        return torch.arange(self.num_labels, device=self.get_buffer("leaf_offsets").device)

    def gather_positives(self, features_BD: Tensor, positive_keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `LabelHead.gather_positives`: of this process's own texts."""
        texts = torch.div(positive_keys, self.num_labels, rounding_mode="floor")
        return features_BD.detach().float(), texts, positive_keys % self.num_labels

    def sum_over_replicas(self, tensor: Tensor) -> Tensor:
        """See `LabelHead.sum_over_replicas`: every process holds all rows."""
        if dist.is_initialized():
            dist.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def import_rows(self, positions: Tensor, weight: Tensor, bias: Tensor) -> int:
        """See `LabelHead.import_rows`; before an engine partitions the blocks."""
        for number, block in enumerate(self.blocks):
            own = positions // self.block_rows == number
            rows = positions[own] - number * self.block_rows
            block.get_parameter("weight")[rows] = weight[own].to(block.get_parameter("weight"))
            block.get_parameter("bias")[rows] = bias[own].to(block.get_parameter("bias"))
        return len(positions)

    def _labels_of(self, leaves: Leaves | None, batch_size: int) -> Shortlist:
        leaf_offsets = self.get_buffer("leaf_offsets")
        if leaves is None:
            return every_node(self.num_labels, batch_size, leaf_offsets.device)
        return expand_children(leaf_offsets, leaves.nodes, leaves.mask, self._most_labels)

    def _logits(self, features_BD: Tensor, shortlist: Shortlist) -> Tensor:
        """Logits [B, C]. Every rank visits every block, because gathering is a collective call."""
        total = features_BD.new_zeros(shortlist.nodes.shape)
        for start, block in zip(range(0, self.num_labels, self.block_rows), self.blocks, strict=True):
            local = shortlist.nodes - start
            is_here = shortlist.mask & (local >= 0) & (local < self.block_rows)
            logits = block(features_BD, local.masked_fill(~is_here, 0))
            total = total + logits.masked_fill(~is_here, 0)
        return total
