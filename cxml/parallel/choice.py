"""Which nodes of a sharded level of clusters are handed down to the next level: the best of all owners."""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.accelerators import host_may_wait
from cxml.model import HandDown, Leaves
from cxml.model.ranking import NO_KEY, joint_logit, own_logits_of, ranking_keys, scores_of
from cxml.optim import WORD_BITS, Shortlists, best_per_text
from cxml.parallel.routing import Visit


def choose(visit: Visit[Shortlists], logits_PW: Tensor, positions_PW: Tensor, wanted: HandDown) -> Leaves:
    """The nodes that each text hands down: true ones first if they are forced, then those of the highest logits.

    As `cxml.model.shortlist.select_slots`: a text with more true nodes than are wanted keeps all of them. A collective
    call of the ranks that share the rows.

    Args:
        visit: the texts that arrived at this rank.
        logits_PW: of the rows of each pair's leaf.
        positions_PW: of these rows, -1 where there is none.
        wanted: how many, alike on all ranks.
    """
    ranking = logits_PW
    if wanted.is_forced:
        columns = torch.arange(logits_PW.shape[1], device=logits_PW.device)
        words = visit.candidates.truth[:, columns // WORD_BITS]
        is_true = (words.bitwise_right_shift(columns.int() % WORD_BITS) & 1).bool()
        ranking = logits_PW.masked_fill(is_true, torch.inf)
    keys, nodes = _best(visit, ranking_keys(ranking, logits_PW), positions_PW, wanted.most)
    num_wanted = torch.full_like(nodes[:, :1], wanted.size)
    if wanted.is_forced:
        num_wanted = torch.maximum(num_wanted, scores_of(keys).isposinf().sum(1, keepdim=True))
    if host_may_wait(keys) and len(keys):  # where the widest is known without waiting
        width = int(num_wanted.max())
        keys, nodes = keys[:, :width], nodes[:, :width]
    mask = (torch.arange(keys.shape[1], device=keys.device) < num_wanted) & (keys != NO_KEY)
    return Leaves(nodes=nodes.masked_fill(~mask, 0), mask=mask, logits=own_logits_of(keys).masked_fill(~mask, 0.0))


def best_nodes(visit: Visit[Shortlists], logits_PW: Tensor, positions_PW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ranking keys and positions of the k best nodes of each text, int64 [B, k] both, weighted where that is asked."""
    scores = logits_PW
    if visit.parent_logits is not None:
        scores = joint_logit(logits_PW, visit.parent_logits[:, None])
    return _best(visit, ranking_keys(scores, logits_PW), positions_PW, k)


def _best(visit: Visit[Shortlists], keys_PW: Tensor, positions_PW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    keys = keys_PW.masked_fill(positions_PW < 0, NO_KEY)
    texts = visit.candidates.texts[:, None].expand_as(keys)
    num_texts = len(visit.candidates.features)
    return visit.bring_best(*best_per_text(num_texts, texts.flatten(), keys.flatten(), positions_PW.flatten(), k))
