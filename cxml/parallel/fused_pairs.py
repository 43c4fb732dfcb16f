"""The pairs of `routing` on an accelerator: three launches, one of them a sort."""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.parallel import triton_step_ops


def sort_pairs(
    leaf_offsets: Tensor,
    nodes_BK: Tensor,
    mask_BK: Tensor | None,
    positive_keys: Tensor | None,
    logits_BK: Tensor | None,
    *,
    shape: triton_step_ops.RoutingShape,
    num_words: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Owners int64, leaves int32, texts int32, values float32 and truth int32 of the B times K pairs, see `_Pairs`."""
    nodes_BK = nodes_BK.contiguous()
    numbers, shares = nodes_BK.new_empty(nodes_BK.shape), nodes_BK.new_empty(len(nodes_BK), dtype=torch.float32)
    if numbers.numel():
        triton_step_ops.launch_number_pairs(numbers, shares, nodes_BK, mask_BK, leaf_offsets, shape)
    rising, order = numbers.flatten().sort()
    owners, values = rising.new_empty(len(rising)), shares.new_empty(len(rising))
    leaves, texts = (rising.new_empty(len(rising), dtype=torch.int32) for _ in range(2))
    truth = leaves.new_empty(len(rising), num_words)
    if len(rising):
        own = shares if logits_BK is None else logits_BK.contiguous()
        triton_step_ops.launch_unpack_pairs(
            owners, leaves, texts, values, truth, rising, order, own, positive_keys, leaf_offsets, shape
        )
    return owners, leaves, texts, values, truth
