"""The kernels of `triton_pairs` and `triton_step_check` as torch operators, see `cxml.triton_operators`.

`launch_sort_pairs` combines those of `triton_pairs` for `cxml.parallel.pairs`, in three launches, one of them a sort.
The `shape` of an operator contains the numbers of `RoutingShape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from cxml.parallel.triton_pairs import number_pairs, unpack_pairs
from cxml.parallel.triton_step_check import check_step, count_step
from cxml.triton_operators import grid, operator

_PAIRS = 128  # at a time
_MOST_NODES = 1024
_LOSSES = 16


class RoutingShape(NamedTuple):
    """The sizes that determine the numbers of pairs.

    Attributes:
        num_texts: B.
        num_nodes: K, most leaves per text.
        num_shards: ranks that share the rows.
        most_leaves: most leaves of a rank.
        num_positions: rows of all ranks.
        no_leaf: the leaf of a missing pair.
    """

    num_texts: int
    num_nodes: int
    num_shards: int
    most_leaves: int
    num_positions: int
    no_leaf: int


def launch_sort_pairs(
    leaf_offsets: Tensor,
    nodes_BK: Tensor,
    mask_BK: Tensor | None,
    positive_keys: Tensor | None,
    logits_BK: Tensor | None,
    *,
    shape: RoutingShape,
    num_words: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Owners int64, leaves int32, texts int32, values float32 and truth int32 of the B times K pairs, see `Pairs`."""
    nodes_BK = nodes_BK.contiguous()
    numbers, shares = nodes_BK.new_empty(nodes_BK.shape), nodes_BK.new_empty(len(nodes_BK), dtype=torch.float32)
    if numbers.numel():
        launch_number_pairs(numbers, shares, nodes_BK, mask_BK, leaf_offsets, shape)
    rising, order = numbers.flatten().sort()
    owners, values = rising.new_empty(len(rising)), shares.new_empty(len(rising))
    leaves, texts = (rising.new_empty(len(rising), dtype=torch.int32) for _ in range(2))
    truth = leaves.new_empty(len(rising), num_words)
    if len(rising):
        own = shares if logits_BK is None else logits_BK.contiguous()
        launch_unpack_pairs(
            owners, leaves, texts, values, truth, rising, order, own, positive_keys, leaf_offsets, shape
        )
    return owners, leaves, texts, values, truth


def _number_pairs(
    numbers: Tensor, shares: Tensor, nodes: Tensor, mask: Tensor | None, leaf_offsets: Tensor, shape: Sequence[int]
) -> None:
    own = RoutingShape(*shape)
    is_wanted = nodes >= 0 if mask is None else (nodes >= 0) & mask
    chosen = nodes.masked_fill(~is_wanted, 0)
    lengths = ((leaf_offsets[chosen + 1] - leaf_offsets[chosen]) * is_wanted).sum(1)
    shares.copy_(1 / lengths.clamp(min=1).float())
    pairs = chosen % own.num_shards * own.most_leaves + chosen // own.num_shards
    found = pairs * own.num_texts + torch.arange(own.num_texts)[:, None]
    numbers.copy_(found.masked_fill(~is_wanted, own.num_shards * own.most_leaves * own.num_texts))


@operator(
    "Tensor(a!) numbers, Tensor(b!) shares, Tensor nodes, Tensor? mask, Tensor leaf_offsets, int[] shape",
    ["numbers", "shares"], _number_pairs,
)  # fmt: skip
def launch_number_pairs(
    numbers: Tensor, shares: Tensor, nodes: Tensor, mask: Tensor | None, leaf_offsets: Tensor, shape: Sequence[int]
) -> None:
    """Write the numbers of pairs, int64 [B, K], and the texts' shares, float32 [B]."""
    own = RoutingShape(*shape)
    grid(number_pairs, own.num_texts)(
        nodes, nodes if mask is None else mask.view(torch.uint8), leaf_offsets, numbers, shares, own.num_texts,
        own.num_nodes, own.num_shards, own.most_leaves, HAS_MASK=mask is not None,
        BLOCK=min(_MOST_NODES, max(16, triton.next_power_of_2(own.num_nodes))), num_warps=4,
    )  # fmt: skip


def _unpack_pairs(
    owners: Tensor, leaves: Tensor, texts: Tensor, own_values: Tensor, truth: Tensor, numbers: Tensor, order: Tensor,
    values: Tensor, positive_keys: Tensor | None, leaf_offsets: Tensor, shape: Sequence[int],
) -> None:  # fmt: skip
    own = RoutingShape(*shape)
    pair = numbers // own.num_texts
    owners.copy_(pair // own.most_leaves)
    leaves.copy_((pair % own.most_leaves).masked_fill(owners == own.num_shards, own.no_leaf))
    texts.copy_(numbers % own.num_texts)
    own_values.copy_(values[order // own.num_nodes] if values.ndim == 1 else values.flatten()[order])
    truth.zero_()
    if positive_keys is not None and len(positive_keys):
        keys = positive_keys.unique()
        positions = keys % own.num_positions
        nodes = torch.searchsorted(leaf_offsets, positions, right=True) - 1
        rows = positions - leaf_offsets[nodes]
        pairs = nodes % own.num_shards * own.most_leaves + nodes // own.num_shards
        wanted = pairs * own.num_texts + keys // own.num_positions
        place = torch.searchsorted(numbers, wanted).clamp_(max=len(numbers) - 1)
        bits = (torch.ones_like(rows, dtype=torch.int32) << (rows % 32).int()) * (numbers[place] == wanted)
        truth.view(-1).index_add_(0, place * truth.shape[1] + rows // 32, bits)


@operator(
    "Tensor(a!) owners, Tensor(b!) leaves, Tensor(c!) texts, Tensor(d!) own_values, Tensor(e!) truth, Tensor numbers, "
    "Tensor order, Tensor values, Tensor? positive_keys, Tensor leaf_offsets, int[] shape",
    ["owners", "leaves", "texts", "own_values", "truth"], _unpack_pairs,
)  # fmt: skip
def launch_unpack_pairs(
    owners: Tensor, leaves: Tensor, texts: Tensor, own_values: Tensor, truth: Tensor, numbers: Tensor, order: Tensor,
    values: Tensor, positive_keys: Tensor | None, leaf_offsets: Tensor, shape: Sequence[int],
) -> None:  # fmt: skip
    """Write the pairs of sorted numbers, [P] each, and their true rows, int32 [P, words]: see `unpack_pairs`.

    `values` are float32 [B] of texts, or [B, K] of pairs.
    """
    own, (num_pairs, num_words) = RoutingShape(*shape), truth.shape
    keys = numbers[:0] if positive_keys is None else positive_keys
    grid(unpack_pairs, triton.cdiv(num_pairs, _PAIRS), max(1, num_words))(
        numbers, order, values, keys, leaf_offsets, owners, leaves, texts, own_values, truth,
        own.num_texts, own.num_nodes, num_pairs, len(keys), own.num_shards, own.most_leaves, own.num_positions,
        num_words, own.no_leaf, BY_TEXT=values.ndim == 1, BLOCK=_PAIRS, num_warps=4,
    )  # fmt: skip


def _check_step(is_finite: Tensor, losses: Tensor, counts: Tensor, most_in_a_row: int) -> None:
    is_finite.copy_(losses.isfinite().all() & (counts[0] < most_in_a_row))


@operator(
    "Tensor(a!) is_finite, Tensor losses, Tensor counts, int most_in_a_row", ["is_finite"], _check_step
)  # fmt: skip
def launch_check_step(is_finite: Tensor, losses: Tensor, counts: Tensor, most_in_a_row: int) -> None:
    """Write bool []; see `check_step`."""
    grid(check_step, 1)(
        losses, counts, is_finite.view(torch.uint8), len(losses), most_in_a_row, BLOCK=_LOSSES, num_warps=1
    )


def _count_step(
    counts: Tensor, first_losses: Tensor, counted: Tensor, losses: Tensor, own: Tensor, is_finite: Tensor, step: int,
    most_in_a_row: int,
) -> None:  # fmt: skip
    counted.zero_()
    if is_finite:
        counted.copy_(own)
        counts[0] = 0
        return
    if not counts[0]:
        first_losses.copy_(losses)
        counts[2] = step
    counts[0] = min(int(counts[0]) + 1, most_in_a_row)
    counts[1] += 1


@operator(
    "Tensor(a!) counts, Tensor(b!) first_losses, Tensor(c!) counted, Tensor losses, Tensor own, Tensor is_finite, "
    "int step, int most_in_a_row",
    ["counts", "first_losses", "counted"], _count_step,
)  # fmt: skip
def launch_count_step(
    counts: Tensor, first_losses: Tensor, counted: Tensor, losses: Tensor, own: Tensor, is_finite: Tensor, step: int,
    most_in_a_row: int,
) -> None:  # fmt: skip
    """Write counts int64 [3], and two lists of losses float32 [levels]; see `count_step`."""
    grid(count_step, 1)(
        losses, own, is_finite.view(torch.uint8), counts, first_losses, counted, step, len(losses), most_in_a_row,
        BLOCK=_LOSSES, num_warps=1,
    )  # fmt: skip
