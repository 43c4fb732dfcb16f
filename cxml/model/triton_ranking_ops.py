"""The kernels of `triton_ranking` as torch operators, see `cxml.triton_operators`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from cxml.model import ranking as plain
from cxml.model.triton_ranking import best_nodes, choose_keys, key_scores, rank_nodes, rank_pairs, take_best
from cxml.model.triton_shortlist_ops import block, pointers, shortlist_of
from cxml.triton_operators import grid, operator

_CELLS = 256
_MOST_SLOTS = 512


def _rank_nodes(
    keys: Tensor, ranking: Tensor, logits: Tensor, nodes: Tensor | None, mask: Tensor | None,
    parent_slots: Tensor | None, parent_logits: Tensor | None, by_node: bool,
) -> None:  # fmt: skip
    shortlist = shortlist_of(ranking, nodes, mask)
    own = (logits.gather(1, shortlist.nodes) if by_node else logits).float()
    scores = own
    if parent_slots is not None and parent_logits is not None:
        scores = plain.joint_logit(own, parent_logits.gather(1, parent_slots))
    keys.copy_(plain.ranking_keys(scores, own).masked_fill(~shortlist.mask, plain.NO_KEY))
    ranking.copy_(own.masked_fill(~shortlist.mask, -torch.inf))


@operator(
    "Tensor(a!) keys, Tensor(b!) ranking, Tensor logits, Tensor? nodes, Tensor? mask, Tensor? parent_slots, "
    "Tensor? parent_logits, bool by_node",
    ["keys", "ranking"], _rank_nodes,
)  # fmt: skip
def launch_rank_nodes(
    keys: Tensor, ranking: Tensor, logits: Tensor, nodes: Tensor | None, mask: Tensor | None,
    parent_slots: Tensor | None, parent_logits: Tensor | None, by_node: bool,
) -> None:  # fmt: skip
    """Write keys int64 and logits float32, [B, C] both; see `rank_nodes`."""
    has_parents = parent_slots is not None and parent_logits is not None
    grid(rank_nodes, len(keys))(
        logits, *pointers(logits, nodes, mask), parent_slots if has_parents else logits,
        parent_logits if has_parents else logits, keys, ranking,
        parent_logits.shape[1] if parent_logits is not None else 0, keys.shape[1], logits.shape[1],
        HAS_NODES=nodes is not None, BY_NODE=by_node, HAS_PARENTS=has_parents,
        BLOCK=block(keys.shape[1], _MOST_SLOTS), num_warps=4,
    )  # fmt: skip


def _best_nodes(best: Tensor, scores: Tensor, keys: Tensor, slots: Tensor, nodes: Tensor | None) -> None:
    width = keys.shape[1]
    found = plain.scores_of(keys)
    scores.fill_(-torch.inf)[:, :width] = found
    chosen = slots if nodes is None else nodes.gather(1, slots)
    best.fill_(-1)[:, :width] = chosen.masked_fill(found.isneginf(), -1)


@operator(
    "Tensor(a!) best, Tensor(b!) scores, Tensor keys, Tensor slots, Tensor? nodes", ["best", "scores"], _best_nodes
)
def launch_best_nodes(best: Tensor, scores: Tensor, keys: Tensor, slots: Tensor, nodes: Tensor | None) -> None:
    """Write nodes int64 and scores float32, [B, k] both; see `best_nodes`."""
    grid(best_nodes, len(keys))(
        keys, slots, slots if nodes is None else nodes, best, scores, keys.shape[1],
        0 if nodes is None else nodes.shape[1], best.shape[1],
        HAS_NODES=nodes is not None, BLOCK=block(best.shape[1], _MOST_SLOTS), num_warps=4,
    )  # fmt: skip


def _rank_pairs(
    keys: Tensor, logits: Tensor, positions: Tensor, parent_logits: Tensor | None, truth: Tensor | None
) -> None:
    keys.copy_(plain.pair_keys(logits, positions, parent_logits, truth))


@operator(
    "Tensor(a!) keys, Tensor logits, Tensor positions, Tensor? parent_logits, Tensor? truth", ["keys"], _rank_pairs
)  # fmt: skip
def launch_rank_pairs(
    keys: Tensor, logits: Tensor, positions: Tensor, parent_logits: Tensor | None, truth: Tensor | None
) -> None:
    """Write keys int64 [P, W]; see `rank_pairs`."""
    grid(rank_pairs, triton.cdiv(keys.numel(), _CELLS))(
        logits, positions, logits if parent_logits is None else parent_logits, logits if truth is None else truth, keys,
        keys.numel(), keys.shape[1], 0 if truth is None else truth.shape[1],
        HAS_PARENTS=parent_logits is not None, HAS_TRUTH=truth is not None, BLOCK=_CELLS, num_warps=4,
    )  # fmt: skip


def _choose_keys(
    chosen: Tensor, is_chosen: Tensor, own: Tensor, keys: Tensor, nodes: Tensor, wanted: int, is_forced: bool
) -> None:
    most = torch.full_like(nodes[:, :1], wanted)
    if is_forced:
        most = torch.maximum(most, plain.scores_of(keys).isposinf().sum(1, keepdim=True))
    is_chosen.copy_((torch.arange(keys.shape[1]) < most) & (keys != plain.NO_KEY))
    chosen.copy_(nodes.masked_fill(~is_chosen, 0))
    own.copy_(plain.own_logits_of(keys).masked_fill(~is_chosen, 0.0))


@operator(
    "Tensor(a!) chosen, Tensor(b!) is_chosen, Tensor(c!) own, Tensor keys, Tensor nodes, int wanted, bool is_forced",
    ["chosen", "is_chosen", "own"], _choose_keys,
)  # fmt: skip
def launch_choose_keys(
    chosen: Tensor, is_chosen: Tensor, own: Tensor, keys: Tensor, nodes: Tensor, wanted: int, is_forced: bool
) -> None:
    """Write nodes int64, mask bool and logits float32, [B, K] each; see `choose_keys`."""
    grid(choose_keys, len(keys))(
        keys, nodes, chosen, is_chosen.view(torch.uint8), own, keys.shape[1], wanted, IS_FORCED=is_forced,
        BLOCK=block(keys.shape[1], _MOST_SLOTS), num_warps=4,
    )  # fmt: skip


def _key_scores(scores: Tensor, keys: Tensor) -> None:
    scores.copy_(plain.scores_of(keys))


@operator("Tensor(a!) scores, Tensor keys", ["scores"], _key_scores)
def launch_key_scores(scores: Tensor, keys: Tensor) -> None:
    """Write the scores of keys, float32, any shape."""
    grid(key_scores, triton.cdiv(keys.numel(), _CELLS))(keys, scores, keys.numel(), BLOCK=_CELLS, num_warps=4)


def _take_best(
    best: Tensor, found: Tensor, texts: Tensor, order: Tensor, place: Tensor, keys: Tensor, positions: Tensor
) -> None:
    num_texts, k = best.shape
    bounds = torch.searchsorted(texts, torch.arange(num_texts + 1, dtype=texts.dtype))
    chosen = bounds[:-1, None] + torch.arange(k)
    is_there = chosen < bounds[1:, None]
    own = place[order[chosen.masked_fill(~is_there, 0)]] if len(place) else chosen.masked_fill(~is_there, 0)
    best.fill_(plain.NO_KEY)
    best[is_there] = keys[own[is_there]]
    found.fill_(-1)
    found[is_there] = positions[own[is_there]]
    found.masked_fill_(best == plain.NO_KEY, -1)


@operator(
    "Tensor(a!) best, Tensor(b!) found, Tensor texts, Tensor order, Tensor place, Tensor keys, Tensor positions",
    ["best", "found"], _take_best,
)  # fmt: skip
def launch_take_best(
    best: Tensor, found: Tensor, texts: Tensor, order: Tensor, place: Tensor, keys: Tensor, positions: Tensor
) -> None:
    """Write keys and positions, int64 [S, k] both; see `take_best`."""
    grid(take_best, len(best))(
        texts, order, place, keys, positions, best, found, len(keys), best.shape[1],
        BLOCK=block(best.shape[1], _CELLS), num_warps=4,
    )  # fmt: skip
