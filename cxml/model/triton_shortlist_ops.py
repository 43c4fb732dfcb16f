"""The kernels of `triton_shortlist` as torch operators, see `cxml.triton_operators`.

If `nodes` and `mask` are None, the shortlist is the whole level.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from cxml.model.shortlist import (
    Shortlist,
    children_of,
    every_key,
    every_node,
    is_positive,
    shortlist_losses,
    truth_first,
)
from cxml.model.triton_shortlist import expand_children, level_loss, positive_keys, select_nodes
from cxml.triton_operators import grid, operator

_LABELS = 32  # nodes of a text per block; all pairs are compared
_CHILDREN, _PARENTS = 16, 32
_MOST_SLOTS = 512  # with more, threads spill


def _positive_keys(
    keys: Tensor, label_values: Tensor, label_positions: Tensor, label_offsets: Tensor, tree_offsets: Tensor,
    starts: Tensor,
) -> None:  # fmt: skip
    levels = list(tree_offsets.split(starts.diff().tolist())) if len(keys) > 1 else []
    found = every_key(label_positions[label_values], label_offsets, levels, len(label_positions))
    keys.copy_(torch.stack(found))


@operator(
    "Tensor(a!) keys, Tensor label_values, Tensor label_positions, Tensor label_offsets, Tensor tree_offsets, "
    "Tensor starts",
    ["keys"], _positive_keys,
)  # fmt: skip
def launch_positive_keys(
    keys: Tensor, label_values: Tensor, label_positions: Tensor, label_offsets: Tensor, tree_offsets: Tensor,
    starts: Tensor,
) -> None:  # fmt: skip
    """Write the sorted keys of all levels, int64 [levels, nnz]."""
    grid(positive_keys, len(label_offsets) - 1)(
        label_values, label_positions, label_offsets, tree_offsets, starts, keys, len(label_values),
        len(label_positions), LEVELS=len(keys), BLOCK=_LABELS, num_warps=4,
    )  # fmt: skip


def _expand_children(
    children: Tensor, is_child: Tensor, parent_slots: Tensor, offsets: Tensor, nodes: Tensor, mask: Tensor
) -> None:
    found = children_of(offsets, nodes, mask, children.shape[1])
    for target, source in ((children, found.nodes), (is_child, found.mask), (parent_slots, found.parent_slots)):
        target.copy_(source)


@operator(
    "Tensor(a!) children, Tensor(b!) is_child, Tensor(c!) parent_slots, Tensor offsets, Tensor nodes, Tensor mask",
    ["children", "is_child", "parent_slots"], _expand_children,
)  # fmt: skip
def launch_expand_children(
    children: Tensor, is_child: Tensor, parent_slots: Tensor, offsets: Tensor, nodes: Tensor, mask: Tensor
) -> None:
    """Write the children of nodes [B, K] as a `Shortlist` [B, C], with the smallest C that is known to suffice."""
    grid(expand_children, len(nodes))(
        offsets, nodes, mask.view(torch.uint8), children, is_child.view(torch.uint8), parent_slots, nodes.shape[1],
        children.shape[1], BLOCK=block(nodes.shape[1], _PARENTS), CHILDREN=_CHILDREN, num_warps=4,
    )  # fmt: skip


def _level_loss(
    losses: Tensor, slopes: Tensor, ranking: Tensor, num_wanted: Tensor, logits: Tensor, nodes: Tensor | None,
    mask: Tensor | None, keys: Tensor, num_nodes: int, wanted: int, by_node: bool, is_forced: bool,
) -> None:  # fmt: skip
    shortlist = shortlist_of(ranking, nodes, mask)
    truth = is_positive(shortlist, keys, num_nodes) if len(keys) else torch.zeros_like(shortlist.mask)
    own = logits.gather(1, shortlist.nodes) if by_node else logits
    found = shortlist_losses(own, truth, shortlist.mask)
    slope = (own.float().sigmoid() - truth.float()) * shortlist.mask / shortlist.mask.sum(1, keepdim=True)
    order, least = truth_first(own, shortlist.mask, wanted, truth if is_forced else None)
    slopes.copy_(slopes.new_zeros(slopes.shape).scatter_add_(1, shortlist.nodes, slope) if by_node else slope)
    for target, source in ((losses, found), (ranking, order), (num_wanted, least)):
        target.copy_(source)


@operator(
    "Tensor(a!) losses, Tensor(b!) slopes, Tensor(c!) ranking, Tensor(d!) num_wanted, Tensor logits, Tensor? nodes, "
    "Tensor? mask, Tensor keys, int num_nodes, int wanted, bool by_node, bool is_forced",
    ["losses", "slopes", "ranking", "num_wanted"], _level_loss,
)  # fmt: skip
def launch_level_loss(
    losses: Tensor, slopes: Tensor, ranking: Tensor, num_wanted: Tensor, logits: Tensor, nodes: Tensor | None,
    mask: Tensor | None, keys: Tensor, num_nodes: int, wanted: int, by_node: bool, is_forced: bool,
) -> None:  # fmt: skip
    """Write losses float32 [B], slopes float32 like logits, ranking float32 [B, C], num_wanted int32 [B]."""
    width = ranking.shape[1]
    grid(level_loss, len(logits))(
        logits, *pointers(logits, nodes, mask), keys, losses, slopes, ranking, num_wanted, len(keys), num_nodes, width,
        logits.shape[1], wanted, HAS_NODES=nodes is not None, BY_NODE=by_node, IS_FORCED=is_forced,
        BLOCK=block(width, _MOST_SLOTS), num_warps=4,
    )  # fmt: skip


def _select_nodes(
    chosen: Tensor, is_chosen: Tensor, own: Tensor, slots: Tensor, logits: Tensor, nodes: Tensor | None,
    mask: Tensor | None, num_wanted: Tensor | None, by_node: bool,
) -> None:  # fmt: skip
    shortlist = shortlist_of(logits, nodes, mask)
    own.copy_((logits.gather(1, shortlist.nodes) if by_node else logits).gather(1, slots))
    counts = shortlist.mask.gather(1, slots)
    if num_wanted is not None:
        counts &= torch.arange(slots.shape[1]) < num_wanted[:, None]
    is_chosen.copy_(counts)
    chosen.copy_(shortlist.nodes.gather(1, slots).masked_fill(~is_chosen, 0))


@operator(
    "Tensor(a!) chosen, Tensor(b!) is_chosen, Tensor(c!) own, Tensor slots, Tensor logits, Tensor? nodes, "
    "Tensor? mask, Tensor? num_wanted, bool by_node",
    ["chosen", "is_chosen", "own"], _select_nodes,
)  # fmt: skip
def launch_select_nodes(
    chosen: Tensor, is_chosen: Tensor, own: Tensor, slots: Tensor, logits: Tensor, nodes: Tensor | None,
    mask: Tensor | None, num_wanted: Tensor | None, by_node: bool,
) -> None:  # fmt: skip
    """Write nodes int64, their mask bool and their logits float32 of chosen slots, all [B, K]."""
    width = logits.shape[1] if nodes is None else nodes.shape[1]
    grid(select_nodes, len(slots))(
        slots, logits, *pointers(logits, nodes, mask), slots if num_wanted is None else num_wanted, chosen,
        is_chosen.view(torch.uint8), own, slots.shape[1], width, logits.shape[1], HAS_NODES=nodes is not None,
        BY_NODE=by_node, IS_COUNTED=num_wanted is not None,
        BLOCK=block(slots.shape[1], _MOST_SLOTS), num_warps=4,
    )  # fmt: skip


def shortlist_of(like: Tensor, nodes: Tensor | None, mask: Tensor | None) -> Shortlist:
    """The shortlist; if it is the whole level, with the number of columns of `like` [B, C]."""
    if nodes is None or mask is None:
        return every_node(like.shape[1], len(like), like.device)
    return Shortlist(nodes, mask, nodes)


def pointers(logits: Tensor, nodes: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Nodes and mask, or placeholders if a kernel does not read them."""
    return (logits, logits) if nodes is None or mask is None else (nodes, mask.view(torch.uint8))


def block(width: int, most: int) -> int:
    """Columns per block: a power of two, which kernels are compiled for."""
    return min(most, max(16, triton.next_power_of_2(width)))
