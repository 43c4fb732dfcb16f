"""Launches of the kernels that replace many small operations, as a training on an accelerator makes them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from support.ahead_of_time import Launch, recorded_launches

from cxml.model import SelectionRule, triton_shortlist_ops
from cxml.model import triton_ranking_ops as ranking_ops
from cxml.model.fused_level import best_and_choice, loss_and_choice
from cxml.model.shortlist import Shortlist
from cxml.parallel import triton_step_ops as parallel_ops

_TEXTS, _NODES = 8, 2000  # more nodes than a block has


def fused_launches() -> Iterator[tuple[str, Launch]]:
    """Yield each launch that compiles a kernel differently, with a description."""
    with recorded_launches() as launches:
        _positive_keys()
        _levels()
        _rankings()
        _pairs()
        _step_check()
    seen = set()
    for launch in launches:
        types = tuple(getattr(value, "dtype", type(value)) for value in launch.arguments.values())
        key = (launch.name, types, tuple(launch.constants.items()))
        if key not in seen:
            seen.add(key)
            yield ", ".join(f"{name} {value}" for name, value in launch.constants.items()), launch


def _positive_keys() -> None:
    values, label_offsets = torch.zeros(32, dtype=torch.int64), torch.arange(_TEXTS + 1) * 4
    for levels in (1, 3):
        keys = torch.empty(levels, len(values), dtype=torch.int64)
        triton_shortlist_ops.launch_positive_keys(
            keys, values, torch.arange(_NODES), label_offsets, values, values[:levels]
        )


def _levels() -> None:
    nodes = torch.zeros(_TEXTS, _NODES, dtype=torch.int64)
    mask = torch.ones_like(nodes, dtype=torch.bool)
    shortlist, offsets = Shortlist(nodes, mask, nodes.clone()), torch.arange(_NODES + 1)
    triton_shortlist_ops.launch_expand_children(nodes.clone(), mask.clone(), nodes.clone(), offsets, nodes, mask)
    for form in (torch.float32, torch.bfloat16):
        for own, width in ((None, _NODES), (shortlist, _NODES), (shortlist, 2 * _NODES)):
            logits = torch.zeros(_TEXTS, width, dtype=form)
            for is_forced in (True, False):
                loss_and_choice(logits, own, nodes[0], width, SelectionRule(64, is_forced, most_true=1500))


def _rankings() -> None:
    nodes = torch.zeros(_TEXTS, _NODES, dtype=torch.int64)
    shortlist, parents = Shortlist(nodes, nodes == 0, nodes.clone()), torch.zeros(_TEXTS, 64)
    for form in (torch.float32, torch.bfloat16):
        for own, width in ((None, _NODES), (shortlist, _NODES), (shortlist, 2 * _NODES)):
            for above in (None, parents):
                best_and_choice(torch.zeros(_TEXTS, width, dtype=form), own, above, 1500, SelectionRule(64))
    logits, truth, order = torch.zeros(_NODES, 64), torch.zeros(_NODES, 2, dtype=torch.int32), torch.arange(_NODES)
    ranking_ops.launch_rank_pairs(nodes, logits, nodes, None, None)
    ranking_ops.launch_rank_pairs(nodes, logits, nodes, logits[:, 0].contiguous(), None)
    ranking_ops.launch_rank_pairs(nodes, logits, nodes, None, truth)
    ranking_ops.launch_key_scores(logits, nodes)
    ranking_ops.launch_take_best(nodes, nodes.clone(), order.int(), order, order, nodes, nodes)
    for is_forced in (True, False):
        ranking_ops.launch_choose_keys(nodes, nodes == 0, nodes.float(), nodes, nodes, 64, is_forced)


def _pairs() -> None:
    nodes = torch.zeros(_TEXTS, 64, dtype=torch.int64)
    shape = parallel_ops.RoutingShape(_TEXTS, 64, 1, _NODES, 8 * _NODES, _NODES)
    offsets = torch.arange(_NODES + 1)
    for mask in (None, nodes == 0):
        for logits in (None, nodes.float()):
            parallel_ops.launch_sort_pairs(offsets, nodes, mask, nodes[0], logits, shape=shape, num_words=2)


def _step_check() -> None:
    losses, counts, is_finite = torch.zeros(4), torch.zeros(3, dtype=torch.int64), torch.tensor(True)
    parallel_ops.launch_check_step(is_finite, losses, counts, 3)
    parallel_ops.launch_count_step(counts, losses, losses.clone(), losses.clone(), losses.clone(), is_finite, 5, 3)
