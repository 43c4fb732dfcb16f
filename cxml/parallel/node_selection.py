"""Select the nodes of a sharded cluster level for the next level, over all owners."""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.accelerators import host_may_wait
from cxml.fused import is_fused
from cxml.model import Leaves, SelectionRule
from cxml.model.ranking import NO_KEY, own_logits_of, pair_keys, scores_of
from cxml.optim import Shortlists, best_per_text
from cxml.parallel.routing import Dispatch


def choose(dispatch: Dispatch[Shortlists], logits_PW: Tensor, positions_PW: Tensor, wanted: SelectionRule) -> Leaves:
    """The selected nodes of each text: true ones first with teacher forcing, then those with the highest logits.

    Like `cxml.model.shortlist.select_slots`, a text keeps all of its true nodes. A collective call of the ranks that
    share the rows.

    Args:
        dispatch: the texts that arrived at this rank.
        logits_PW: of the rows of each pair's leaf.
        positions_PW: of these rows, -1 where there is none.
        wanted: number of nodes, equal on all ranks.
    """
    truth = dispatch.candidates.truth.contiguous() if wanted.is_forced else None
    keys, nodes = _best(dispatch, pair_keys(logits_PW, positions_PW, truth=truth), positions_PW, wanted.most)
    if is_fused(keys):
        from cxml.model import triton_ranking_ops  # noqa: PLC0415 - optional

        keys, nodes = keys.contiguous(), nodes.contiguous()
        chosen, own = torch.empty_like(nodes), torch.empty_like(nodes, dtype=torch.float32)
        mask = torch.empty_like(nodes, dtype=torch.bool)
        triton_ranking_ops.launch_choose_keys(chosen, mask, own, keys, nodes, wanted.size, wanted.is_forced)
        return Leaves(nodes=chosen, mask=mask, logits=own)
    num_wanted = torch.full_like(nodes[:, :1], wanted.size)
    if wanted.is_forced:
        num_wanted = torch.maximum(num_wanted, scores_of(keys).isposinf().sum(1, keepdim=True))
    if host_may_wait(keys) and len(keys):  # where the largest number is known without waiting
        width = int(num_wanted.max())
        keys, nodes = keys[:, :width], nodes[:, :width]
    mask = (torch.arange(keys.shape[1], device=keys.device) < num_wanted) & (keys != NO_KEY)
    return Leaves(nodes=nodes.masked_fill(~mask, 0), mask=mask, logits=own_logits_of(keys).masked_fill(~mask, 0.0))


def best_nodes(
    dispatch: Dispatch[Shortlists], logits_PW: Tensor, positions_PW: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Ranking keys and positions of the k best nodes of each text, int64 [B, k] both; weighted if `dispatch` is."""
    return _best(dispatch, pair_keys(logits_PW, positions_PW, dispatch.parent_logits), positions_PW, k)


def _best(dispatch: Dispatch[Shortlists], keys_PW: Tensor, positions_PW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    texts = dispatch.candidates.texts[:, None].expand_as(keys_PW)
    num_texts = len(dispatch.candidates.features)
    return dispatch.combine_best(
        *best_per_text(num_texts, texts.flatten(), keys_PW.flatten(), positions_PW.flatten(), k)
    )
