"""The ranking of nodes and their probabilities, defined once for all heads.

With `weighted` scoring, the score of a node is its probability times its parent's. In float32, probabilities of logits
above 17 are all 1, and those of logits below -104 all 0, so nodes are ranked by the logit of the score instead. Without
weighting it is exactly the node's own logit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.fused import is_fused

NO_KEY = -(2**63)
"""A key below all scores: marks the absence of a node."""
_LOWEST = -(2**31)


def joint_logit(logits: Tensor, parent_logits: Tensor) -> Tensor:
    """The logit of sigmoid(logits) * sigmoid(parent_logits), without rounding either to 0 or 1.

    With a, b = sorted logits it is -log((1 + e^-a) (1 + e^-b) - 1), with the largest term moved out of the logarithm. A
    parent logit of infinity does not change the logits. `cxml.optim.row_kernels` has the version for compiled loops.
    """
    low, high = torch.minimum(logits, parent_logits), torch.maximum(logits, parent_logits)
    rest = torch.exp(-high.abs()) + torch.exp(low - high.clamp(min=0))
    return low + high.clamp(max=0) - torch.log1p(rest)


def ranking_keys(scores: Tensor, own: Tensor) -> Tensor:
    """Order-preserving int64 keys of scores, with ties ordered by the nodes' own logits; float32 of the same shape.

    Below a parent with logit 5, nodes with logits 100 and 200 have the same score in float32, that of the parent.
    """
    return (_ordered(scores) << 32) + _ordered(own) - _LOWEST


def pair_keys(
    logits_PW: Tensor, positions_PW: Tensor, parent_logits_P: Tensor | None = None, truth: Tensor | None = None
) -> Tensor:
    """The keys of pairs' rows, int64 [P, W]; of weighted scores if logits of the leaves are given.

    Args:
        logits_PW: float32.
        positions_PW: int64, -1 for no row, which gets `NO_KEY`.
        parent_logits_P: float32.
        truth: int32 [P, words], bit r % 32 of word r // 32 set if row r is true: then its score is infinity.
    """
    if not is_fused(logits_PW):
        scores = logits_PW if parent_logits_P is None else joint_logit(logits_PW, parent_logits_P[:, None])
        if truth is not None:
            columns = torch.arange(logits_PW.shape[1], device=logits_PW.device)
            bits = truth[:, columns // 32].bitwise_right_shift(columns.int() % 32) & 1
            scores = scores.masked_fill(bits.bool(), torch.inf)
        return ranking_keys(scores, logits_PW).masked_fill(positions_PW < 0, NO_KEY)
    from cxml.model import triton_ranking_ops  # noqa: PLC0415 - optional

    keys = torch.empty_like(positions_PW)
    triton_ranking_ops.launch_rank_pairs(keys, logits_PW, positions_PW, parent_logits_P, truth)
    return keys


def scores_of(keys: Tensor) -> Tensor:
    """The scores of `ranking_keys` as logits, float32; -inf for `NO_KEY`."""
    if is_fused(keys):
        from cxml.model import triton_ranking_ops  # noqa: PLC0415 - optional

        scores = torch.empty(keys.shape, dtype=torch.float32, device=keys.device)
        triton_ranking_ops.launch_key_scores(scores, keys.contiguous())
        return scores
    high = keys >> 32
    bits = torch.where(high < 0, high ^ 0x7FFFFFFF, high).int()
    return bits.view(torch.float32).masked_fill(keys == NO_KEY, -torch.inf)


def own_logits_of(keys: Tensor) -> Tensor:
    """The nodes' own logits of `ranking_keys`, float32; undefined for `NO_KEY`."""
    low = (keys & 0xFFFFFFFF) + _LOWEST
    return torch.where(low < 0, low ^ 0x7FFFFFFF, low).int().view(torch.float32)


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities of logits, float32 on the CPU, monotone in the logits, and 0 for -inf."""
    return torch.sigmoid(logits.cpu().double()).float()


def _ordered(values: Tensor) -> Tensor:
    """Integers of 32 bits, as int64, in the order of float32 values; 0 and -0 are equal."""
    bits = (values + 0.0).view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
