"""The pairs (text, leaf) of a batch, in the order in which they are sent to the owners of the leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cxml.accelerators import host_may_wait
from cxml.fused import is_fused
from cxml.optim import WORD_BITS
from cxml.parallel.row_layout import Shard


@dataclass(frozen=True)
class Pairs:
    """Pairs (text, leaf) of this rank's texts, sorted by owner, leaf of the owner and text.

    Attributes:
        owners: int64 [P]; the number of shards for a missing pair, at the end.
        leaves: integers [P], numbered by their owner; this rank's number of leaves for a missing pair.
        texts: integers [P].
        values: float32 [P], the share of a text's loss or the logit of a leaf.
        truth: int32 [P, words], see `Shortlists`.
    """

    owners: Tensor
    leaves: Tensor
    texts: Tensor
    values: Tensor
    truth: Tensor


def wanted_pairs(
    shard: Shard, nodes_BK: Tensor, mask_BK: Tensor | None, positive_keys: Tensor | None, logits_BK: Tensor | None
) -> Pairs:
    """The pairs of texts and their leaves, with the true rows of each; arguments as in `send`."""
    if is_fused(nodes_BK):
        return _fused_pairs(shard, nodes_BK, mask_BK, positive_keys, logits_BK)
    nodes_BK = nodes_BK if mask_BK is None else nodes_BK.masked_fill(~mask_BK, -1)
    return sort_pairs(shard, nodes_BK, positive_keys, logits_BK)


def sort_pairs(shard: Shard, nodes_BK: Tensor, positive_keys: Tensor | None, logits_BK: Tensor | None) -> Pairs:
    """The sorted pairs, with the true rows of each; see `wanted_pairs`."""
    num_texts, num_shards, most_leaves = len(nodes_BK), shard.num_shards, shard.most_leaves
    is_wanted = nodes_BK >= 0
    nodes = nodes_BK.clamp(min=0)
    if logits_BK is None:
        lengths = ((shard.leaf_offsets[nodes + 1] - shard.leaf_offsets[nodes]) * is_wanted).sum(1)
        values_BK = (1 / lengths.clamp(min=1).float())[:, None].expand_as(nodes)
    else:
        values_BK = logits_BK
    texts = torch.arange(num_texts, device=nodes.device)[:, None]
    keys = _keys(shard, nodes, texts, num_texts).masked_fill(~is_wanted, num_shards * most_leaves * num_texts)
    is_exact = host_may_wait(keys)
    rising, order = (keys[is_wanted] if is_exact else keys.flatten()).sort()
    values = (values_BK[is_wanted] if is_exact else values_BK.flatten())[order]
    truth = _mark_true(shard, rising, positive_keys, num_texts)
    pair = rising // max(1, num_texts)
    owners, leaves = pair // most_leaves, pair % most_leaves
    if not is_exact:
        leaves = leaves.masked_fill(owners == num_shards, len(shard.leaf_rows.positions))
    return Pairs(owners, leaves, rising % max(1, num_texts), values, truth)


def _fused_pairs(
    shard: Shard, nodes_BK: Tensor, mask_BK: Tensor | None, positive_keys: Tensor | None, logits_BK: Tensor | None
) -> Pairs:
    """As `sort_pairs`."""
    from cxml.parallel.triton_step_ops import RoutingShape, launch_sort_pairs  # noqa: PLC0415 - optional

    num_texts, num_nodes = nodes_BK.shape
    shape = RoutingShape(
        num_texts, num_nodes, shard.num_shards, shard.most_leaves, shard.num_positions, len(shard.leaf_rows.positions)
    )
    found = launch_sort_pairs(
        shard.leaf_offsets, nodes_BK, mask_BK, positive_keys, logits_BK,
        shape=shape, num_words=shard.leaf_rows.num_words,
    )  # fmt: skip
    return Pairs(*found)


def _keys(shard: Shard, leaves: Tensor, texts: Tensor, num_texts: int) -> Tensor:
    """Numbers of pairs that sort by owner, leaf of the owner, and text."""
    return (leaves % shard.num_shards * shard.most_leaves + leaves // shard.num_shards) * num_texts + texts


def _mark_true(shard: Shard, rising: Tensor, positive_keys: Tensor | None, num_texts: int) -> Tensor:
    """The true rows of each pair; `rising` are the pairs' sorted numbers."""
    num_words = shard.leaf_rows.num_words
    truth = torch.zeros(len(rising) * num_words, dtype=torch.int32, device=rising.device)
    if positive_keys is not None and len(rising):
        is_new = torch.ones_like(positive_keys, dtype=torch.bool)
        torch.not_equal(positive_keys[1:], positive_keys[:-1], out=is_new[1:])
        texts, positions = positive_keys // shard.num_positions, positive_keys % shard.num_positions
        leaves, rows = shard.find(positions)
        wanted = _keys(shard, leaves, texts, num_texts)
        place = torch.searchsorted(rising, wanted).clamp_(max=len(rising) - 1)
        bits = torch.ones_like(rows, dtype=torch.int32) << (rows % WORD_BITS).int()
        truth.index_add_(0, place * num_words + rows // WORD_BITS, bits * (is_new & (rising[place] == wanted)))
    return truth.view(-1, num_words)
