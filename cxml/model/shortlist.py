"""Shortlists: the nodes of a level that are scored for each text. All functions process the whole batch at once.

Legend: B texts, C nodes in the shortlist (padded), K nodes selected for the next level. A level's nodes are numbered in
tree order, so the children of a node are one contiguous range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cxml.fused import is_fused
from cxml.model.ranking import NO_KEY, joint_logit, ranking_keys, scores_of

_MOST_HANDED_DOWN = 65536


@dataclass(frozen=True)
class Shortlist:
    """Nodes of one level to score for each text.

    Attributes:
        nodes: int64 [B, C]; padding is node 0.
        mask: bool [B, C]; False marks padding.
        parent_slots: int64 [B, C]: index of each node's parent among the selected nodes; 0 at level 0.
    """

    nodes: Tensor
    mask: Tensor
    parent_slots: Tensor

    def best(self, logits_BC: Tensor, parent_logits_BK: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        """The k nodes with the highest scores, best first.

        Args:
            logits_BC: logits of the nodes, any float dtype.
            parent_logits_BK: logits of the selected nodes, float32, whose probabilities are multiplied with those of
                their children; None if a score is the node's own probability.
            k: number of nodes.

        Returns:
            Nodes int64 [B, k] and their scores as logits float32 [B, k], padded with -1 and -inf.
        """
        own = logits_BC.float()
        width = min(k, own.shape[1])
        if parent_logits_BK is None:
            scores, slots = own.masked_fill(~self.mask, -torch.inf).topk(width, dim=1)
        else:
            keys = ranking_keys(joint_logit(own, parent_logits_BK.gather(1, self.parent_slots)), own)
            best, slots = keys.masked_fill(~self.mask, NO_KEY).topk(width, dim=1)
            scores = scores_of(best)
        nodes = self.nodes.gather(1, slots).masked_fill(scores.isneginf(), -1)
        missing = 0, k - width  # the longest shortlist of the batch may be shorter than k
        return F.pad(nodes, missing, value=-1), F.pad(scores, missing, value=-torch.inf)


def every_node(num_nodes: int, batch_size: int, device: torch.device) -> Shortlist:
    """The shortlist of level 0: all of its nodes, for each text."""
    nodes = torch.arange(num_nodes, device=device).expand(batch_size, -1)
    return Shortlist(nodes=nodes, mask=torch.ones_like(nodes, dtype=torch.bool), parent_slots=torch.zeros_like(nodes))


def select_slots(
    logits_BC: Tensor, mask_BC: Tensor, k: int, is_true_BC: Tensor | None = None, most_true: int = 0
) -> tuple[Tensor, Tensor]:
    """Choose the slots of the selected nodes: true ones first (teacher forcing), then the highest logits.

    A text with more than `k` true nodes keeps all of them, so positives are never dropped.

    Args:
        logits_BC: scores, any float dtype; no gradient flows through the choice.
        mask_BC: False marks padding.
        k: nodes selected for a text with at most `k` true ones.
        is_true_BC: marks true nodes; None in prediction.
        most_true: upper bound of the true nodes of any text, for accelerators, where the host does not wait for it.

    Returns:
        Slots int64 [B, K] and their mask bool [B, K].
    """
    ranking, wanted_B = truth_first(logits_BC, mask_BC, k, is_true_BC)
    widest = int(wanted_B.max()) if ranking.device.type == "cpu" else max(k, most_true)
    width = min(widest, ranking.shape[1])
    slots_BK = ranking.topk(width, dim=1).indices
    is_wanted = torch.arange(width, device=ranking.device) < wanted_B[:, None]
    return slots_BK, is_wanted & mask_BC.gather(1, slots_BK)


def truth_first(
    logits_BC: Tensor, mask_BC: Tensor, k: int, is_true_BC: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The ranking values of slots for `select_slots`, float32 [B, C], and the number to choose per text, int64 [B]."""
    ranking = logits_BC.detach().float().masked_fill(~mask_BC, -torch.inf)
    wanted_B = torch.full_like(mask_BC[:, 0], k, dtype=torch.int64)
    if is_true_BC is not None:
        ranking = ranking.masked_fill(is_true_BC, torch.inf)
        wanted_B = torch.maximum(wanted_B, is_true_BC.sum(1))
    return ranking, wanted_B


def expand_children(offsets: Tensor, nodes_BK: Tensor, mask_BK: Tensor, most: Sequence[int]) -> Shortlist:
    """The shortlist of the next level: all children of the chosen nodes.

    Args:
        offsets: int64 [n + 1]; children of node i are offsets[i] .. offsets[i + 1].
        nodes_BK: chosen nodes.
        mask_BK: which of them count.
        most: most children of 0, 1, 2 and so on nodes together, for accelerators, where the host does not wait for the
            number.
    """
    if offsets.device.type == "cpu":
        return children_of(offsets, nodes_BK, mask_BK)
    width = most[min(nodes_BK.shape[1], len(most) - 1)]
    if not is_fused(offsets):
        return children_of(offsets, nodes_BK, mask_BK, width)
    from cxml.model import triton_shortlist_ops  # noqa: PLC0415 - optional

    nodes, parents = (nodes_BK.new_empty(len(nodes_BK), width) for _ in range(2))
    mask = mask_BK.new_empty(nodes.shape)
    triton_shortlist_ops.launch_expand_children(
        nodes, mask, parents, offsets, nodes_BK.contiguous(), mask_BK.contiguous()
    )
    return Shortlist(nodes, mask, parents)


def children_of(offsets: Tensor, nodes_BK: Tensor, mask_BK: Tensor, width: int | None = None) -> Shortlist:
    """See `expand_children`; `width` is C, None for the minimum, which is read from the device."""
    starts_BK = offsets[nodes_BK]
    lengths_BK = (offsets[nodes_BK + 1] - starts_BK) * mask_BK
    ends_BK = lengths_BK.cumsum(1)
    totals_B = ends_BK[:, -1:]
    width = int(totals_B.max()) if width is None else width
    position_BC = torch.arange(width, device=offsets.device).expand(len(nodes_BK), -1).contiguous()
    owner_BC = torch.searchsorted(ends_BK, position_BC, right=True).clamp_(max=nodes_BK.shape[1] - 1)
    children_BC = (starts_BK - ends_BK + lengths_BK).gather(1, owner_BC) + position_BC
    mask_BC = position_BC < totals_B
    return Shortlist(nodes=children_BC.masked_fill_(~mask_BC, 0), mask=mask_BC, parent_slots=owner_BC)


def positive_keys(
    label_positions: Tensor, label_offsets: Tensor, tree_offsets: list[Tensor], num_labels: int
) -> list[Tensor]:
    """The true nodes of every level, as sorted keys `text * nodes of the level + node`, int64.

    On an accelerator, where the host does not wait for their number, nodes with several labels are repeated.

    Args:
        label_positions: true labels as positions in tree order, int64 [nnz], text after text.
        label_offsets: int64 [B + 1]; text b's labels are label_offsets[b] .. label_offsets[b + 1].
        tree_offsets: children ranges of each cluster level, coarse to fine.
        num_labels: labels in all.

    Returns:
        One tensor per level, level 0 first, the labels last.
    """
    *above, labels = every_key(label_positions, label_offsets, tree_offsets, num_labels)
    is_exact = label_positions.device.type == "cpu"
    return [*(torch.unique_consecutive(keys) if is_exact else keys for keys in above), labels]


def every_key(
    label_positions: Tensor, label_offsets: Tensor, tree_offsets: list[Tensor], num_labels: int
) -> list[Tensor]:  # fmt: skip
    """See `positive_keys`: with one key per label on every level, [nnz] each."""
    num_texts = len(label_offsets) - 1
    texts = torch.arange(num_texts, device=label_positions.device)
    texts = texts.repeat_interleave(label_offsets.diff(), output_size=len(label_positions))
    num_nodes = num_labels
    keys = [torch.sort(texts * num_nodes + label_positions).values]
    for offsets in reversed(tree_offsets):
        texts, nodes = keys[0] // num_nodes, keys[0] % num_nodes
        num_nodes = len(offsets) - 1
        parents = torch.searchsorted(offsets[1:], nodes, right=True)
        keys.insert(0, texts * num_nodes + parents)
    return keys


def shortlist_loss(logits_BC: Tensor, is_true_BC: Tensor, mask_BC: Tensor) -> Tensor:
    """Binary cross-entropy: the mean over each text's shortlist, summed over the texts, in float32.

    Each text's mean is over its own shortlist, not over the padded width, so the sum over a batch does not depend on
    its division into processes and micro-batches (docs/decisions/0002).
    """
    return shortlist_losses(logits_BC, is_true_BC, mask_BC).sum()


def shortlist_losses(logits_BC: Tensor, is_true_BC: Tensor, mask_BC: Tensor) -> Tensor:
    """The terms of `shortlist_loss`, float32 [B]."""
    terms = F.binary_cross_entropy_with_logits(logits_BC.float(), is_true_BC.float(), reduction="none")
    return (terms * mask_BC).sum(1) / mask_BC.sum(1)


def is_positive(shortlist: Shortlist, keys: Tensor, num_nodes: int) -> Tensor:
    """Whether each node of the shortlist is true, bool [B, C]; `keys` are the level's keys from `positive_keys`."""
    if not len(keys):
        return torch.zeros_like(shortlist.mask)
    texts = torch.arange(len(shortlist.nodes), device=keys.device)[:, None]
    wanted = texts * num_nodes + shortlist.nodes
    found = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return (keys[found] == wanted) & shortlist.mask


def most_children(offsets: Tensor) -> list[int]:
    """Most children of 0, 1, 2 and so on nodes together, up to 65,536 nodes; `offsets` int64 [n + 1]."""
    if offsets.is_meta:  # a model for measurements
        return [0]
    sizes = offsets.diff()
    largest_first = sizes.topk(min(_MOST_HANDED_DOWN, len(sizes))).values
    return [0, *largest_first.cumsum(0).tolist()]
