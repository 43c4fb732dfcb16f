"""The fused kernels of levels and shortlists equal the PyTorch functions that they replace.

Triton runs on a GPU where there is one, otherwise in its interpreter. The stand-ins of the operators pass the same
tests. Oracle: those PyTorch functions.
"""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("triton")

from cxml.accelerators import device_of
from cxml.model import triton_shortlist_ops
from cxml.model.fused_level import loss_and_choice
from cxml.model.heads import SelectionRule
from cxml.model.shortlist import (
    Shortlist,
    children_of,
    every_key,
    every_node,
    is_positive,
    most_children,
    select_slots,
    shortlist_loss,
)

DEVICE = device_of(0)


@pytest.fixture(params=["kernels", "stand-ins"])
def device(request, monkeypatch):
    """Where the kernels run, and, with tensors on the CPU, what stands in for them where they do not."""
    if request.param == "kernels":
        return DEVICE
    monkeypatch.setattr("cxml.triton_operators.runs_kernels", lambda _: False)
    return torch.device("cpu")


def make_offsets(sizes):
    return torch.tensor([0, *sizes]).cumsum(0)


TREES = {  # children of the nodes of each level of clusters
    "no clusters": (7, []),
    "one cluster": (5, [[5]]),
    "ragged": (9, [[2, 0, 3], [1, 4, 0, 2, 2]]),
    "four levels": (300, [[3, 1], [40, 1, 8, 2], [5] * 50 + [50]]),
}
LABELS = {  # of each text
    "one text": lambda n: [[n - 1]],
    "text without labels": lambda n: [[0], [], [n - 1, 1]],
    "no labels at all": lambda _: [[], []],
    "every label": lambda n: [[2], list(range(n)), [1, 0]],
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("tree", TREES)
def test_true_keys_of_all_levels_equal_those_of_torch(tree, labels, device):
    num_labels, sizes = TREES[tree]
    texts = LABELS[labels](num_labels)
    order = torch.randperm(num_labels, generator=torch.Generator().manual_seed(0)).to(device)
    values = torch.tensor([label for text in texts for label in sorted(text)], dtype=torch.int64, device=device)
    label_offsets = make_offsets([len(text) for text in texts]).to(device)
    offsets = [make_offsets(level).to(device) for level in sizes]
    starts = make_offsets([len(level) for level in offsets]).to(device)
    flat = torch.cat([*offsets, values[:0]])
    keys = values.new_full((len(sizes) + 1, len(values)), -1)
    triton_shortlist_ops.launch_positive_keys(keys, values, order, label_offsets, flat, starts)
    expected = every_key(order[values], label_offsets, offsets, num_labels)
    assert [level.tolist() for level in keys] == [level.tolist() for level in expected]


CHOICES = {  # children of each node, then the chosen nodes of each text, -1 for none
    "one text": ([3, 2], [[1, 0]]),
    "nodes without children": ([0, 2, 0, 3], [[0, 1, 2, 3], [2, 0, -1, -1], [3, -1, 1, 0]]),
    "text without nodes": ([1, 2], [[-1, -1], [1, 0]]),
    "nodes of many children": ([100, 1, 70], [[2, 1, 0], [1, -1, 2]]),
    "many nodes": ([1, 2, 3] * 50, [list(range(149, 0, -1)), [*range(70), *[-1] * 79]]),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_children_of_the_chosen_nodes_equal_those_of_torch(choice, device):
    sizes, chosen = CHOICES[choice]
    offsets, nodes = make_offsets(sizes).to(device), torch.tensor(chosen, device=device)
    mask, width = nodes >= 0, most_children(make_offsets(sizes))[min(nodes.shape[1], len(sizes))] + 3
    found = [torch.full((len(nodes), width), 9, device=device) for _ in range(2)]
    is_child = torch.ones(len(nodes), width, dtype=torch.bool, device=device)
    triton_shortlist_ops.launch_expand_children(found[0], is_child, found[1], offsets, nodes.clamp(min=0), mask)
    expected = children_of(offsets, nodes.clamp(min=0), mask, width)
    assert torch.equal(found[0], expected.nodes)
    assert torch.equal(is_child, expected.mask)
    assert torch.equal(found[1], expected.parent_slots)


NUM_NODES = 1300  # more than a block, and no power of two
WIDTHS = {"few": 5, "more than a block": 1100}


def make_shortlist(width, device, num_texts=4, seed=0):
    """Distinct nodes of each text, the last of which have few and one."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.stack([torch.randperm(NUM_NODES, generator=generator)[:width] for _ in range(num_texts)])
    lengths = torch.tensor([width, max(1, width // 2), 3, 1])[:num_texts]
    mask = torch.arange(width) < lengths[:, None]
    nodes = nodes.masked_fill(~mask, 0)
    return Shortlist(nodes.to(device), mask.to(device), torch.zeros_like(nodes).to(device))


def make_keys(shortlist, device, repeats=True):
    """True nodes: many of the first text, repeated, one that is not in the shortlist, none of the third text."""
    own = [[*shortlist.nodes[0][::2].tolist(), NUM_NODES - 1], shortlist.nodes[1][:1].tolist(), [], [0]]
    keys = [text * NUM_NODES + node for text, nodes in enumerate(own[: len(shortlist.nodes)]) for node in nodes]
    return torch.tensor(sorted(keys + keys[:3] * repeats), dtype=torch.int64, device=device)


def expected_of(logits, shortlist, keys, wanted):
    """Loss, gradient and choice by torch."""
    logits = logits.detach().clone().requires_grad_()
    truth = is_positive(shortlist, keys, NUM_NODES)
    own = logits if logits.shape == shortlist.nodes.shape else logits.gather(1, shortlist.nodes)
    loss = shortlist_loss(own, truth, shortlist.mask)
    loss.backward()
    slots, mask = select_slots(own, shortlist.mask, wanted.size, truth if wanted.is_forced else None)
    nodes = shortlist.nodes.gather(1, slots).masked_fill(~mask, 0)
    return loss, logits.grad, nodes, mask, own.detach().gather(1, slots).float()


@pytest.mark.parametrize("form", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_forced", [True, False])
@pytest.mark.parametrize("kind", ["every node", "by node", "by slot"])
@pytest.mark.parametrize("width", WIDTHS)
def test_loss_gradient_and_choice_of_a_level_equal_those_of_torch(width, kind, is_forced, form, device):
    generator = torch.Generator().manual_seed(1)
    shortlist = make_shortlist(WIDTHS[width], device)
    keys = make_keys(shortlist, device)
    columns = WIDTHS[width] if kind == "by slot" else NUM_NODES
    logits = torch.randn(4, columns, generator=generator)
    # Distinct, so that there is one choice.
    logits = (logits.argsort(1).argsort(1) / 128 - 4).to(device, form)
    if kind == "every node":
        shortlist = every_node(NUM_NODES, 4, device)
    wanted = SelectionRule(3, is_forced, most_true=700)
    expected = expected_of(logits, shortlist, keys, wanted)
    learning = logits.clone().requires_grad_()
    loss, chosen = loss_and_choice(learning, None if kind == "every node" else shortlist, keys, NUM_NODES, wanted)
    (loss * 1).backward()
    torch.testing.assert_close(loss, expected[0].float())
    torch.testing.assert_close(learning.grad, expected[1], rtol=1e-5 if form == torch.float32 else 2**-7, atol=1e-7)
    check_choice(chosen, expected[2:], is_forced and form == torch.float32)


def check_choice(chosen, expected, is_ordered):
    """The same nodes of each text, with their logits; true nodes come in any order, as do equal logits."""
    nodes, mask, logits = expected
    for own, own_mask, own_logits, *others in zip(
        chosen.nodes, chosen.mask, chosen.logits, nodes, mask, logits, strict=True
    ):
        assert own_mask.sum() == others[1].sum()
        assert not own[~own_mask].any()
        found = dict(zip(own[own_mask].tolist(), own_logits[own_mask].tolist(), strict=True))
        wanted = dict(zip(others[0][others[1]].tolist(), others[2][others[1]].tolist(), strict=True))
        if is_ordered:
            assert found == wanted
        assert sorted(found.values()) == sorted(wanted.values())


def test_one_text_without_true_nodes_has_the_loss_of_torch_and_its_best_nodes(device):
    shortlist = make_shortlist(40, device, num_texts=1)
    logits = torch.linspace(-3, 3, 40, device=device)[None]
    wanted = SelectionRule(64, True, most_true=2)
    keys = torch.tensor([], dtype=torch.int64, device=device)
    loss, chosen = loss_and_choice(logits.requires_grad_(), shortlist, keys, NUM_NODES, wanted)
    loss.backward()
    expected = shortlist_loss(logits.detach(), torch.zeros_like(shortlist.mask), shortlist.mask)
    torch.testing.assert_close(loss, expected)
    assert chosen.nodes.tolist() == shortlist.nodes.flip(1).tolist()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_logit_that_is_not_finite_shows_in_the_loss(value, device):
    shortlist = make_shortlist(20, device)
    logits = torch.zeros(4, 20, device=device)
    logits[0, 1] = value  # not true
    keys = make_keys(shortlist, device)
    loss, _ = loss_and_choice(logits.requires_grad_(), shortlist, keys, NUM_NODES, SelectionRule(3, True, 700))
    assert not loss.isfinite()


def test_a_text_without_nodes_has_no_mean_loss_and_hands_nothing_down(device):
    shortlist = make_shortlist(20, device)
    none = Shortlist(shortlist.nodes, torch.zeros_like(shortlist.mask), shortlist.parent_slots)
    logits, keys = torch.zeros(4, 20, device=device), make_keys(shortlist, device)
    loss, chosen = loss_and_choice(logits.requires_grad_(), none, keys, NUM_NODES, SelectionRule(3, True, 700))
    assert loss.isnan()
    assert not chosen.mask.any()


def test_keys_with_repeats_are_sorted_and_those_of_the_cpu_once_made_unique():
    from cxml.model.shortlist import positive_keys  # the processor's keys are the same, each once

    num_labels, sizes = TREES["four levels"]
    offsets = [make_offsets(level) for level in sizes]
    label_offsets, values = torch.tensor([0, 3, 5]), torch.tensor([1, 2, 250, 0, 299])
    every = every_key(values, label_offsets, offsets, num_labels)
    unique = positive_keys(values, label_offsets, offsets, num_labels)
    assert [sorted(set(level.tolist())) for level in every] == [level.tolist() for level in unique]
    assert all(a <= b for level in every for a, b in pairwise(level.tolist()))
