"""Dispatch a rank's texts to the ranks that own the rows to score them on, and combine the results.

The terms are those of mixtures of experts, where tokens are dispatched to the owners of their experts.

With shortlists, a text is sent only to the owners of its leaves, with each owner's pairs (text, leaf) and the true rows
of each leaf. A rank receives about as many pairs as its own texts have, for any number of ranks.

On CPUs, only the needed data are sent. On accelerators, the host must not wait for sizes computed on the device, so
shapes depend only on the number of texts and leaves: unused places are marked, and all ranks get all features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from cxml.accelerators import host_may_wait
from cxml.data import BatchLimits
from cxml.model import Leaves
from cxml.optim import AllRows, Shortlists, best_per_text
from cxml.parallel.exchange import Exchange
from cxml.parallel.pairs import Pairs, wanted_pairs
from cxml.parallel.row_layout import Shard, own_rows

CandidatesT = TypeVar("CandidatesT", Shortlists, AllRows)
_USUAL_SHORTLIST = 1000  # limits the divisor of a loss over all rows, so that a true row weighs as in a shortlist


@dataclass(frozen=True)
class Dispatch(Generic[CandidatesT]):
    """The texts that this rank has received from all ranks that share the rows.

    Attributes:
        candidates: the S texts, and the rows to score them on.
        parent_logits: float32 [P], logits of the pairs' leaves, if they were sent.
        combine: a collective call. Sums [S, n] over all owners, and returns the [B, n] of this rank's texts.
        combine_best: a collective call. Takes keys int64 [S, k] and positions int64 [S, k], selects the best k over all
            owners, and returns the [B, k] of this rank's texts.
    """

    candidates: CandidatesT
    parent_logits: Tensor | None
    combine: Callable[[Tensor], Tensor]
    combine_best: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def dispatch_texts(
    exchange: Exchange,
    shard: Shard,
    features_BD: Tensor,
    leaves: Leaves | None,
    *,
    positive_keys: Tensor | None,
    limits: BatchLimits | None,
    scores_all: bool,
    weighted: bool,
    has_replicas: bool,
) -> Dispatch[Shortlists] | Dispatch[AllRows]:
    """Send texts to the owners of what they are scored on; a collective call of the ranks that share the rows.

    Args:
        exchange: these ranks.
        shard: this rank's rows.
        features_BD: features of this rank's texts, on the device of the rows.
        leaves: the leaves of each text, on any device; None for all leaves.
        positive_keys: see `dispatch_to_owners`, on any device; None for no true rows.
        limits: see `dispatch_to_all`.
        scores_all: whether texts are scored on all rows, regardless of their leaves.
        weighted: whether to send the logits of the leaves too.
        has_replicas: see `dispatch_to_owners`.
    """
    device = features_BD.device
    keys = None if positive_keys is None else positive_keys.to(device)
    if scores_all:
        share = 1 / min(shard.num_positions, _USUAL_SHORTLIST)
        return dispatch_to_all(
            exchange, shard, features_BD, share=share, positive_keys=keys, limits=limits, has_replicas=has_replicas
        )
    nodes, mask = _leaf_nodes(shard, leaves, len(features_BD), device)
    return dispatch_to_owners(
        exchange, shard, features_BD, nodes, mask_BK=mask, positive_keys=keys,
        logits_BK=leaves.logits.to(device) if weighted and leaves is not None else None,
        most_texts=limits.texts if limits else None, has_replicas=has_replicas,
    )  # fmt: skip


def _leaf_nodes(
    shard: Shard, leaves: Leaves | None, num_texts: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The leaves of each text, int64 [B, K], and which of them count, bool [B, K]; None if all do."""
    if leaves is None:
        return torch.arange(len(shard.leaf_offsets) - 1, device=device).expand(num_texts, -1), None
    if device != leaves.nodes.device:  # one copy to wait for
        return leaves.nodes.masked_fill(~leaves.mask, -1).to(device), None
    return leaves.nodes, leaves.mask


def dispatch_to_owners(
    exchange: Exchange,
    shard: Shard,
    features_BD: Tensor,
    nodes_BK: Tensor,
    *,
    mask_BK: Tensor | None = None,
    positive_keys: Tensor | None = None,
    logits_BK: Tensor | None = None,
    most_texts: int | None = None,
    has_replicas: bool = False,
) -> Dispatch[Shortlists]:
    """Send texts to the owners of their leaves; a collective call of the ranks that share the rows.

    Args:
        exchange: these ranks.
        shard: this rank's rows.
        features_BD: features of this rank's texts, on the device of the rows.
        nodes_BK: int64, the leaves of each text, -1 for none.
        mask_BK: bool, also False for no leaf; None for no mask.
        positive_keys: int64 [T], sorted: text times positions plus position, of the true rows. Rows outside the text's
            leaves are ignored.
        logits_BK: float32, logits of the leaves, to send too.
        most_texts: the most texts of a rank; with None, several accelerators exchange their numbers first.
        has_replicas: whether ranks of other exchanges hold the same rows. Accelerators then pad to the same number of
            texts as those.
    """
    num_texts, is_exact = len(features_BD), host_may_wait(features_BD)
    if (exchange.size > 1 or has_replicas) and not is_exact:
        if most_texts is None:
            most_texts = int(exchange.gather_sizes(num_texts).max())
        features_BD = _pad_rows(features_BD, most_texts)
        nodes_BK = _pad_rows(nodes_BK, most_texts, value=-1)
        mask_BK = None if mask_BK is None else _pad_rows(mask_BK, most_texts)
        logits_BK = None if logits_BK is None else _pad_rows(logits_BK, most_texts)
    pairs = wanted_pairs(shard, nodes_BK, mask_BK, positive_keys, logits_BK)
    if exchange.size == 1:
        parent_logits = None if logits_BK is None else pairs.values
        candidates = Shortlists(features_BD, pairs.leaves.int(), pairs.texts.int(), pairs.values, pairs.truth)
        return Dispatch(
            candidates, parent_logits,
            lambda sums: sums[:num_texts], lambda keys, positions: (keys[:num_texts], positions[:num_texts]),
        )  # fmt: skip
    if is_exact:
        return _dispatch_exactly(exchange, features_BD, pairs, sends_logits=logits_BK is not None)
    return _dispatch_padded(exchange, shard, features_BD, pairs, num_texts, sends_logits=logits_BK is not None)


def _dispatch_exactly(
    exchange: Exchange, features_BD: Tensor, pairs: Pairs, *, sends_logits: bool
) -> Dispatch[Shortlists]:
    """Send only the data that the owners need."""
    num_texts, size = len(features_BD), exchange.size
    goes = torch.zeros(size * num_texts, dtype=torch.int64)
    goes[pairs.owners * num_texts + pairs.texts] = 1
    sent_texts = goes.nonzero()[:, 0] % max(1, num_texts)
    text_counts = goes.view(size, num_texts).sum(1)
    pair_counts = torch.bincount(pairs.owners, minlength=size)
    places = goes.cumsum(0)[pairs.owners * num_texts + pairs.texts] - 1
    places -= (text_counts.cumsum(0) - text_counts)[pairs.owners]
    counts = torch.stack([text_counts, pair_counts], dim=1)
    arriving = exchange.all_to_all(counts, [1] * size, [1] * size)
    (texts_out, pairs_out), (texts_in, pairs_in) = counts.T.tolist(), arriving.T.tolist()

    arrived = exchange.all_to_all(_pack(places, pairs), pairs_out, pairs_in)
    firsts = arriving[:, 0].cumsum(0) - arriving[:, 0]
    texts = arrived[:, 0] + firsts.repeat_interleave(arriving[:, 1]).int()
    leaves, order = arrived[:, 1].sort(stable=True)
    arrived = arrived.index_select(0, order)  # whole rows at once, which indexing takes apart
    values = arrived.view(torch.float32)[:, 2].contiguous()
    features = exchange.all_to_all(features_BD.index_select(0, sent_texts), texts_out, texts_in)
    candidates = Shortlists(features, leaves, texts[order], values, arrived[:, 3:].contiguous())

    def combine(sums: Tensor) -> Tensor:
        back = exchange.all_to_all(sums, texts_in, texts_out)
        return back.new_zeros(num_texts, *back.shape[1:]).index_add_(0, sent_texts, back)

    def combine_best(keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        both = exchange.all_to_all(torch.stack([keys, positions], dim=2), texts_in, texts_out)
        whose = sent_texts[:, None].expand(both.shape[:2])
        return best_per_text(num_texts, whose.flatten(), both[..., 0].flatten(), both[..., 1].flatten(), keys.shape[1])

    return Dispatch(candidates, values if sends_logits else None, combine, combine_best)


def _pack(texts: Tensor, pairs: Pairs) -> Tensor:
    """Pack pairs into one tensor, int32 [P, 3 + words]: text, leaf, the bits of the value, truth."""
    parts = texts.int()[:, None], pairs.leaves.int()[:, None], pairs.values.contiguous()[:, None].view(torch.int32)
    return torch.cat([*parts, pairs.truth], dim=1)


def _dispatch_padded(
    exchange: Exchange, shard: Shard, features_BD: Tensor, pairs: Pairs, own_texts: int, *, sends_logits: bool
) -> Dispatch[Shortlists]:
    """Send the largest possible number of pairs, so that no size depends on the texts' leaves.

    The first `own_texts` of the B texts are real, the others padding.
    """
    num_texts, size, num_pairs = len(features_BD), exchange.size, len(pairs.owners)
    no_leaf = len(shard.leaf_rows.positions)
    every = torch.arange(num_pairs, device=pairs.owners.device)
    firsts = torch.searchsorted(pairs.owners, torch.arange(size + 1, device=every.device))
    place = pairs.owners * num_pairs + every - firsts[pairs.owners]
    parts = (
        pairs.texts.int()[:, None],
        pairs.leaves.int()[:, None],
        pairs.values[:, None].view(torch.int32),
        pairs.truth,
    )
    packed = torch.cat(parts, dim=1)
    leaving = packed.new_full((size * num_pairs + num_pairs, packed.shape[1]), -1)
    leaving[place] = packed
    alike = [num_pairs] * size
    arrived = exchange.all_to_all(leaving[: size * num_pairs], alike, alike)
    source = torch.arange(len(arrived), device=every.device) // num_pairs
    is_there = arrived[:, 1] >= 0
    leaves, order = arrived[:, 1].masked_fill(~is_there, no_leaf).sort(stable=True)
    texts = (arrived[:, 0] + source.int() * num_texts) * is_there
    values = arrived.view(torch.float32)[order, 2]
    all_features = exchange.gather_rows(features_BD, [num_texts] * size)
    candidates = Shortlists(all_features, leaves, texts[order], values, arrived[order, 3:])

    def combine(sums: Tensor) -> Tensor:
        return exchange.sum_rows(sums, [num_texts] * size)[:own_texts]

    def combine_best(keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        both = exchange.all_to_all(torch.stack([keys, positions], dim=2), [num_texts] * size, [num_texts] * size)
        return _best_of_owners(both.view(size, num_texts, *both.shape[1:])[:, :own_texts])

    return Dispatch(candidates, values if sends_logits else None, combine, combine_best)


def dispatch_to_all(
    exchange: Exchange,
    shard: Shard,
    features_BD: Tensor,
    *,
    share: float = 1.0,
    positive_keys: Tensor | None = None,
    limits: BatchLimits | None = None,
    has_replicas: bool = False,
) -> Dispatch[AllRows]:
    """Send texts to all ranks, to be scored on all rows; a collective call of the ranks that share the rows.

    Args:
        exchange: these ranks.
        shard: this rank's rows.
        features_BD: features of this rank's texts, on the device of the rows.
        share: weight of each loss.
        positive_keys: see `dispatch_to_owners`.
        limits: limits of the texts of all ranks; with None, several accelerators exchange their numbers first.
        has_replicas: see `dispatch_to_owners`.
    """
    num_texts = len(features_BD)
    keys = features_BD.new_zeros(0, dtype=torch.int64) if positive_keys is None else positive_keys
    counts, is_exact = [num_texts], host_may_wait(features_BD)
    shares = features_BD.new_empty(num_texts, dtype=torch.float32).fill_(share)
    if exchange.size > 1 or (has_replicas and not is_exact):
        if limits is None or is_exact:
            counts, key_counts = exchange.gather_sizes(num_texts, len(keys)).T.tolist()
        else:
            most_keys = 0 if positive_keys is None else limits.labels
            counts, key_counts = [limits.texts] * exchange.size, [most_keys] * exchange.size
            features_BD, shares = (_pad_rows(values, limits.texts) for values in (features_BD, shares))
            keys = _pad_rows(keys, most_keys, value=-1)
        first = sum(counts[: exchange.rank])
        keys = exchange.gather_rows(torch.where(keys < 0, keys, keys + first * shard.num_positions), key_counts)
        features_BD, shares = (exchange.gather_rows(values, counts) for values in (features_BD, shares))
    rows = torch.where(keys < 0, shard.num_rows, own_rows(shard, keys.clamp(min=0) % shard.num_positions))
    rows, order = rows.sort(stable=True)
    candidates = AllRows(features_BD, rows, keys.clamp(min=0)[order] // shard.num_positions, shares)
    start = sum(counts[: exchange.rank])

    def combine(sums: Tensor) -> Tensor:
        return exchange.sum_rows(sums, counts)[:num_texts]

    def combine_best(best: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        if exchange.size == 1:
            return best[:num_texts], positions[:num_texts]
        both = torch.stack([best, positions], dim=2)
        every = exchange.gather_rows(both, [len(both)] * exchange.size).view(exchange.size, *both.shape)
        return _best_of_owners(every[:, start : start + num_texts])

    return Dispatch(candidates, None, combine, combine_best)


def _best_of_owners(found: Tensor) -> tuple[Tensor, Tensor]:
    """The k best of each text; `found` contains keys and positions, int64 [owners, B, k, 2]."""
    of_owners = found.transpose(0, 1).flatten(1, 2)
    best = of_owners[..., 0].topk(found.shape[2], dim=1)
    return best.values, of_owners[..., 1].gather(1, best.indices)


def _pad_rows(values: Tensor, num_rows: int, value: int = 0) -> Tensor:
    """Append rows up to the number `num_rows`."""
    missing = num_rows - len(values)
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), value)]) if missing else values
