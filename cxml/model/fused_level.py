"""Fused operations after the logits of a replicated cluster level on an accelerator, with few launches.

The results equal those of `shortlist_loss`, `select_slots` and `Shortlist.best`, up to the order of sums and ties, and
the rounding of the exponential function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.model import triton_ranking_ops as ops
from cxml.model import triton_shortlist_ops
from cxml.model.heads import Leaves, SelectionRule
from cxml.model.shortlist import Shortlist


def loss_and_choice(
    logits: Tensor, shortlist: Shortlist | None, keys: Tensor, num_nodes: int, wanted: SelectionRule
) -> tuple[Tensor, Leaves]:
    """The loss of a level, float32 [], and the nodes that it selects.

    Args:
        logits: any float [B, num_nodes] of all nodes, or [B, C] of those of the shortlist.
        shortlist: scored nodes; None for all.
        keys: sorted keys of the true nodes, int64 [T], see `positive_keys`.
        num_nodes: nodes of the level.
        wanted: nodes to select.
    """
    by_node = shortlist is None or logits.shape != shortlist.nodes.shape
    nodes, mask = (None, None) if shortlist is None else (shortlist.nodes, shortlist.mask)
    logits = logits.contiguous()
    loss, ranking, num_wanted = _LevelLoss.apply(logits, nodes, mask, keys, num_nodes, wanted, by_node)
    slots = ranking.topk(min(wanted.most, ranking.shape[1]), dim=1).indices
    return loss, _chosen(slots, logits.detach(), nodes, mask, num_wanted, by_node=by_node)


def best_and_choice(
    logits: Tensor, shortlist: Shortlist | None, parent_logits_BK: Tensor | None, k: int, wanted: SelectionRule
) -> tuple[Tensor, Tensor, Leaves]:
    """The k best nodes int64 [B, k] with their scores float32 [B, k], see `Shortlist.best`, and the nodes passed on.

    Args:
        logits: see `loss_and_choice`.
        shortlist: see `loss_and_choice`.
        parent_logits_BK: logits of the nodes that the level above selected, float32; None for unweighted scores.
        k: number of nodes.
        wanted: nodes to select.
    """
    by_node = shortlist is None or logits.shape != shortlist.nodes.shape
    nodes, mask = (None, None) if shortlist is None else (shortlist.nodes, shortlist.mask)
    parents = None if shortlist is None or parent_logits_BK is None else shortlist.parent_slots
    logits = logits.contiguous()
    shape = logits.shape if nodes is None else nodes.shape
    keys = torch.empty(shape, dtype=torch.int64, device=logits.device)
    ranking = logits.new_empty(shape, dtype=torch.float32)
    ops.launch_rank_nodes(keys, ranking, logits, nodes, mask, parents, parent_logits_BK, by_node)
    found = keys.topk(min(k, shape[1]), dim=1)
    best, scores = keys.new_empty(shape[0], k), ranking.new_empty(shape[0], k)
    ops.launch_best_nodes(best, scores, found.values, found.indices, nodes)
    slots = ranking.topk(min(wanted.size, shape[1]), dim=1).indices
    return best, scores, _chosen(slots, logits, nodes, mask, None, by_node=by_node)


def _chosen(
    slots: Tensor, logits: Tensor, nodes: Tensor | None, mask: Tensor | None, num_wanted: Tensor | None, *,
    by_node: bool,
) -> Leaves:  # fmt: skip
    """The nodes of slots [B, K]."""
    chosen, own = slots.new_empty(slots.shape), logits.new_empty(slots.shape, dtype=torch.float32)
    is_chosen = slots.new_empty(slots.shape, dtype=torch.bool)
    triton_shortlist_ops.launch_select_nodes(chosen, is_chosen, own, slots, logits, nodes, mask, num_wanted, by_node)
    return Leaves(chosen, is_chosen, own)


class _LevelLoss(torch.autograd.Function):
    """The summed loss of texts with derivatives from the same pass, and the other results of `launch_level_loss`."""

    @staticmethod
    def forward(ctx, logits, nodes, mask, keys, num_nodes, wanted, by_node):  # noqa: ANN001, ANN205, PLR0917
        num_texts = len(logits)
        losses = logits.new_empty(num_texts, dtype=torch.float32)
        slopes = losses.new_empty(logits.shape)
        ranking = losses.new_empty(num_texts, num_nodes if nodes is None else nodes.shape[1])
        num_wanted = losses.new_empty(num_texts, dtype=torch.int32)
        triton_shortlist_ops.launch_level_loss(
            losses, slopes, ranking, num_wanted, logits, nodes, mask, keys, num_nodes, wanted.size, by_node,
            wanted.is_forced,
        )  # fmt: skip
        ctx.save_for_backward(slopes)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(ranking, num_wanted)
        ctx.set_materialize_grads(False)
        return losses.sum(), ranking, num_wanted

    @staticmethod
    def backward(ctx, gradient, *_):  # noqa: ANN001, ANN002, ANN205
        (slopes,) = ctx.saved_tensors
        scaled = torch.mul(slopes, gradient, out=slopes.new_empty(slopes.shape, dtype=ctx.dtype))
        return scaled, None, None, None, None, None, None
