"""The fused kernels of pairs and of the step check equal plain PyTorch.

Triton runs on a GPU where there is one, otherwise in its interpreter. The stand-ins of the operators pass the same
tests. Oracle: the PyTorch functions that the kernels replace.
"""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from cxml.accelerators import device_of
from cxml.optim import RowSchedule
from cxml.parallel import RowLayout, triton_step_ops
from cxml.parallel import magnitude as magnitude_module
from cxml.parallel.pairs import sort_pairs
from cxml.parallel.row_layout import Shard
from cxml.parallel.step_check import StepCheck

DEVICE = device_of(0)
HOST = torch.device("cpu")


@pytest.fixture(params=["kernels", "stand-ins"])
def device(request, monkeypatch):
    """Where the kernels run, and, with tensors on the CPU, what stands in for them where they do not."""
    if request.param == "kernels":
        return DEVICE
    monkeypatch.setattr("cxml.triton_operators.runs_kernels", lambda _: False)
    return HOST


SIZES = [3, 0, 33, 64, 1, 7, 70]  # rows of each leaf
WANTED = {  # leaves of each text, -1 for none
    "one text": [[6, 2, 1]],
    "text without leaves": [[-1, -1, -1], [0, 3, -1], [6, 2, 5]],
    "every leaf": [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]],
    "more texts than a block": [[text % 7, (text + 2) % 7, -1 if text % 3 else (text + 4) % 7] for text in range(70)],
}


def make_keys(num_texts, repeats):
    """True rows: many of the first text, at both ends of words, some of leaves that the text does not want."""
    rng, num_rows = np.random.default_rng(0), sum(SIZES)
    own = [[0, 2, 3, 34, 35, 36, 99, 100, 101, 177], *(rng.choice(num_rows, 4).tolist() for _ in range(num_texts - 1))]
    keys = [text * num_rows + row for text, rows in enumerate(own) for row in rows]
    return torch.tensor(sorted({*keys}) + [max(keys)] * repeats)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("sends", ["shares", "logits", "no keys"])
@pytest.mark.parametrize("name", WANTED)
def test_pairs_are_those_of_plain_torch(name, sends, shards, device):
    nodes, is_masked = torch.tensor(WANTED[name]), name == "text without leaves"
    offsets = np.append(0, np.cumsum(SIZES))
    shard = Shard.of(RowLayout.round_robin(offsets, 0, shards), HOST)
    keys = None if sends == "no keys" else make_keys(len(nodes), repeats=2)
    logits = torch.linspace(-1, 1, nodes.numel()).view(nodes.shape) if sends == "logits" else None
    expected = sort_pairs(shard, nodes, keys, logits)
    no_leaf = len(shard.leaf_rows.positions)
    shape = triton_step_ops.RoutingShape(*nodes.shape, shards, shard.most_leaves, shard.num_positions, no_leaf)
    mask = (nodes >= 0).to(device) if is_masked else None
    owners, leaves, texts, values, truth = triton_step_ops.launch_sort_pairs(
        shard.leaf_offsets.to(device), (nodes.abs() if is_masked else nodes).to(device), mask,
        None if keys is None else keys.to(device), None if logits is None else logits.to(device),
        shape=shape, num_words=shard.leaf_rows.num_words,
    )  # fmt: skip
    count = len(expected.owners)
    assert owners[:count].tolist() == expected.owners.tolist()
    assert leaves[:count].tolist() == expected.leaves.tolist()
    assert texts[:count].tolist() == expected.texts.tolist()
    assert torch.equal(values[:count].cpu(), expected.values)
    assert torch.equal(truth[:count].cpu(), expected.truth)
    assert (owners[count:] == shards).all()
    assert (leaves[count:] == no_leaf).all()
    assert not truth[count:].any()


LOSSES = [[0.5, 1.0], [math.nan, 2.0], [1.0, math.inf], [3.0, 4.0], [-math.inf, 1.0], [math.nan] * 2, [math.nan] * 2]


def test_the_check_of_a_step_is_that_of_plain_torch(device, monkeypatch):
    plain = StepCheck(torch.device("cpu"))
    monkeypatch.setattr(plain, "report", lambda: None)
    fused = StepCheck(device)
    for step, numbers in enumerate([*LOSSES, LOSSES[0]], start=1):
        both = []
        for check in (plain, fused):
            with monkeypatch.context() as patch:
                patch.setattr("cxml.parallel.step_check.is_fused", lambda _, own=check: own is fused)
                losses = torch.tensor(numbers, device=check._counts.device)
                is_finite = check.check(losses)
                told = check.count(step, losses, losses / 2, is_finite)
                both.append([is_finite.tolist(), told.tolist(), check._counts.tolist(), str(check._losses.tolist())])
        assert both[0] == both[1]


@pytest.mark.parametrize("is_adam", [True, False])
@pytest.mark.parametrize("beta1", [0.9, 0.9999])
@pytest.mark.parametrize("lr", [0.0, 1e-3, 1e12, 1e25])
@pytest.mark.parametrize("factor", [0.0, 1e-3, 1.0, 1e20])
def test_the_largest_feature_is_where_plain_torch_has_it(factor, lr, beta1, is_adam):
    schedule = RowSchedule(decay=0.0, beta2=0.999, epsilon=1e-8)
    schedule.begin_step(lr, beta1)
    limit = magnitude_module._largest_admitted(factor, 384, schedule, is_adam=is_adam)
    for feature in (0.0, 0.5, 1.0, 10.0, *(limit * near for near in (0.99, 1.01) if math.isfinite(limit)), math.nan):
        largest = torch.tensor(feature)
        expected = magnitude_module.is_bounded(largest, factor, 384, schedule, is_adam=is_adam)
        assert bool(largest < limit) == bool(expected), feature
