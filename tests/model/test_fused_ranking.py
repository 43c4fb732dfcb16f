"""The fused kernels of rankings equal the PyTorch functions that they replace.

Triton runs on a GPU where there is one, otherwise in its interpreter. The stand-ins of the operators pass the same
tests. Oracle: those PyTorch functions.
"""

import pytest
import torch

pytest.importorskip("triton")

from cxml.accelerators import device_of
from cxml.model import triton_ranking_ops
from cxml.model.fused_level import best_and_choice
from cxml.model.heads import SelectionRule
from cxml.model.ranking import NO_KEY, own_logits_of, pair_keys, ranking_keys, scores_of
from cxml.model.shortlist import Shortlist, every_node, select_slots
from cxml.optim.torch_kernels import best_per_text

DEVICE = device_of(0)
ODD = (0.0, -0.0, 1e-30, -1e-30, 17.0, 120.0, -120.0, 3e38, -3e38, torch.inf, -torch.inf)


@pytest.fixture(params=["kernels", "stand-ins"])
def device(request, monkeypatch):
    """Where the kernels run, and, with tensors on the CPU, what stands in for them where they do not."""
    if request.param == "kernels":
        return DEVICE
    monkeypatch.setattr("cxml.triton_operators.runs_kernels", lambda _: False)
    return torch.device("cpu")


def assert_same_keys(found, expected):
    """Keys of the same scores up to the rounding of functions, and of the same logits."""
    found = found.cpu()
    assert torch.equal(found == NO_KEY, expected == NO_KEY)
    torch.testing.assert_close(scores_of(found), scores_of(expected), rtol=1e-5, atol=1e-7)
    exists = expected != NO_KEY
    assert torch.equal(own_logits_of(found)[exists], own_logits_of(expected)[exists])


@pytest.mark.parametrize("kind", ["plain", "weighted", "forced"])
def test_keys_and_scores_of_pairs_equal_those_of_torch(kind, device):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(20, 37, generator=generator)
    logits[: len(ODD), 0] = logits[0, : len(ODD)] = torch.tensor(ODD)
    positions = torch.arange(logits.numel()).view(logits.shape).masked_fill(logits > 6, -1)
    parents = 5 * torch.randn(20, generator=generator) if kind == "weighted" else None
    if parents is not None:
        parents[:3] = torch.tensor([torch.inf, 1e-20, -60.0])
    truth = torch.randint(-(2**31), 2**31 - 1, (20, 2), generator=generator).int() if kind == "forced" else None
    expected = pair_keys(logits, positions, parents, truth)
    keys = positions.new_zeros(logits.shape).to(device)
    there = [None if tensor is None else tensor.to(device) for tensor in (logits, positions, parents, truth)]
    triton_ranking_ops.launch_rank_pairs(keys, *there)
    assert_same_keys(keys, expected)
    scores = torch.zeros(logits.shape, device=device)
    triton_ranking_ops.launch_key_scores(scores, expected.to(device))
    assert torch.equal(scores.cpu(), scores_of(expected))


def test_small_probabilities_are_not_rounded_away(device):
    """The logarithm of a sum near 1, whose rest is far below the rounding of 1."""
    logits, parents = torch.tensor([[0.25, 1e-6]]), torch.tensor([25.0])
    keys = torch.zeros(1, 2, dtype=torch.int64, device=device)
    positions = torch.zeros(1, 2, dtype=torch.int64, device=device)
    triton_ranking_ops.launch_rank_pairs(keys, logits.to(device), positions, parents.to(device), None)
    expected = torch.logit(logits.double().sigmoid() * parents.double().sigmoid())
    torch.testing.assert_close(scores_of(keys.cpu()).double(), expected, rtol=1e-6, atol=0)


def make_shortlist(width, device):
    generator = torch.Generator().manual_seed(1)
    nodes = torch.stack([torch.randperm(700, generator=generator)[:width] for _ in range(3)])
    mask = torch.arange(width) < torch.tensor([width, 2, 0])[:, None]
    parents = torch.randint(4, nodes.shape, generator=generator)
    return Shortlist(nodes.masked_fill(~mask, 0).to(device), mask.to(device), parents.to(device))


@pytest.mark.parametrize("form", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("kind", ["every node", "by node", "by slot"])
@pytest.mark.parametrize("k", [5, 600])
def test_best_nodes_and_those_selected_equal_those_of_torch(k, kind, is_weighted, form, device):
    shortlist = every_node(700, 3, device) if kind == "every node" else make_shortlist(570, device)
    generator = torch.Generator().manual_seed(2)
    width = 570 if kind == "by slot" else 700
    # Distinct in bfloat16 too, and with their parents' logits: powers of two, far from each other's.
    logits = torch.randn(3, width, generator=generator).argsort(1).to(torch.float32)
    logits = (logits / 64 - 5).to(device, form)
    parents = torch.tensor([[40.0, 41, 42, 43]] * 3, device=device) if is_weighted and kind != "every node" else None
    own = logits.gather(1, shortlist.nodes) if kind == "by node" else logits
    expected = shortlist.best(own, parents, k)
    slots, mask = select_slots(own, shortlist.mask, 7)
    wanted = SelectionRule(7)
    nodes, scores, chosen = best_and_choice(
        logits, None if kind == "every node" else shortlist, parents, k, wanted
    )  # fmt: skip
    torch.testing.assert_close(scores, expected[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(chosen.mask, mask)
    if form == torch.float32:  # else several nodes have the same logit
        assert torch.equal(nodes, expected[0])
        assert torch.equal(chosen.nodes, shortlist.nodes.gather(1, slots).masked_fill(~mask, 0))
        assert torch.equal(chosen.logits[mask], own.gather(1, slots).float()[mask])
    assert torch.equal(nodes < 0, expected[0] < 0)


@pytest.mark.parametrize("num_texts", [1, 4])
@pytest.mark.parametrize("k", [1, 3, 300])
def test_the_best_keys_of_each_text_equal_those_of_torch(num_texts, k, device):
    generator = torch.Generator().manual_seed(3)
    texts = torch.randint(num_texts, (260,), generator=generator)
    texts[texts == 2] = 0  # one has none
    keys = ranking_keys(*[torch.randn(260, generator=generator).round(decimals=1)] * 2)
    keys[::7] = NO_KEY
    positions = torch.randperm(260, generator=generator)
    expected = best_per_text(num_texts, texts, keys, positions, k)
    place = positions.argsort(stable=True)
    place = place[keys[place].argsort(descending=True, stable=True)]
    of_text, order = texts[place].int().sort(stable=True)
    found = [torch.zeros(num_texts, k, dtype=torch.int64, device=device) for _ in range(2)]
    arguments = (each.to(device) for each in (of_text, order, place, keys, positions))
    triton_ranking_ops.launch_take_best(*found, *arguments)
    assert torch.equal(found[0].cpu(), expected[0])
    assert torch.equal(found[1].cpu(), expected[1])


@pytest.mark.parametrize("is_forced", [True, False])
def test_the_chosen_keys_are_the_true_ones_and_the_best(is_forced, device):
    own = torch.linspace(3, -3, 600).expand(3, -1)
    num_true = torch.tensor([[5], [1], [0]])
    scores = own.masked_fill(torch.arange(600) < num_true, torch.inf)
    keys = ranking_keys(scores, own).masked_fill(torch.arange(600) >= torch.tensor([[600], [600], [2]]), NO_KEY)
    nodes = torch.arange(1800).view(3, 600)
    chosen = torch.ones_like(nodes).to(device)
    is_chosen, logits = torch.zeros_like(chosen, dtype=torch.bool), torch.ones_like(chosen, dtype=torch.float32)
    triton_ranking_ops.launch_choose_keys(
        chosen, is_chosen, logits, keys.to(device), nodes.to(device), 3, is_forced
    )  # fmt: skip
    counts = [5, 3, 2] if is_forced else [3, 3, 2]
    mask = torch.arange(600) < torch.tensor(counts)[:, None]
    assert torch.equal(is_chosen.cpu(), mask)
    assert torch.equal(chosen.cpu(), nodes.masked_fill(~mask, 0))
    assert torch.equal(logits.cpu(), own.masked_fill(~mask, 0))
