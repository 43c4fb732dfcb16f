"""Label rows sharded over processes train as one head of ordinary parameters does on one process.

Oracles: that head with autograd and plain SGD; PyTorch's binary cross-entropy; finite differences for the gradient.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from support.heads import LR, STEPS, make_problem, train_rows

from cxml.config import HeadConfig, OptimConfig
from cxml.model import EngineHead
from cxml.parallel import run_workers

SGD = HeadConfig(optimizer="sgd")
ALL = HeadConfig(optimizer="sgd", candidates="all")
RANKS = {(4,): 9, (3, 2): 9, (1, 4, 2): 7, (2, 1, 3, 2): 3}
"""Texts of each rank, and leaves in all: with three on four ranks one has no rows."""
CASES = {
    "updated in passing": (SGD, 1),
    "two micro-batches": (SGD, 2),
    "clipped by the norm of all rows": (dataclasses.replace(SGD, clip_global_norm=0.05), 1),
    "all labels": (ALL, 1),
    "all labels, two micro-batches, clipped": (dataclasses.replace(ALL, clip_global_norm=0.05), 2),
}
COPIES = {
    "a copy of the rows on each rank": (dataclasses.replace(SGD, group_size=1), 1),
    "two replicas, each over half of the ranks": (dataclasses.replace(SGD, group_size=2), 2),
    "two replicas, all labels": (dataclasses.replace(ALL, group_size=2, clip_global_norm=0.05), 1),
}


def cases_of(counts):
    return CASES | (COPIES if len(counts) == 4 else {})


@functools.cache
def problem_of(counts):
    return make_problem(len(counts), RANKS[counts], counts)


@functools.cache
def trained(counts):
    """What the ranks gathered in each case, trained one after the other in one process group."""
    cases = cases_of(counts)
    gathered = run_workers(train_rows, (problem_of(counts), list(cases.values())), len(counts))
    return dict(zip(cases, gathered, strict=True))


def plain_head(problem):
    offsets, weight, bias, _ = problem
    head = EngineHead(torch.from_numpy(offsets), len(weight), weight.shape[1], block_rows=7)
    for start, block in zip(range(0, len(weight), 7), head.blocks, strict=True):
        block.weight.data = torch.from_numpy(weight[start : start + 7].copy())
        block.bias.data = torch.from_numpy(bias[start : start + 7].copy())
    return head


def train_plain(problem, config, accumulation):
    """The same steps with autograd and plain SGD, decay on weights only."""
    _, _, _, steps = problem
    head = plain_head(problem)
    decay = OptimConfig().classifier_weight_decay
    seen = []
    for first in range(0, STEPS, accumulation):
        micro_steps = steps[first : first + accumulation]
        total = sum(len(part[0]) for texts in micro_steps for part in texts)
        for texts in micro_steps:
            for features, leaves, keys in texts:
                x = torch.from_numpy(features).requires_grad_()
                loss = head.loss(x, leaves if config.candidates == "shortlist" else None, keys, 1.0)
                (loss / total).backward()
                seen.append((loss.item(), x.grad.numpy() * total))
        if config.clip_global_norm:
            norm = torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip_global_norm)
            assert norm > config.clip_global_norm
        for block in head.blocks:
            block.weight.data.mul_(1 - LR * decay).sub_(LR * block.weight.grad)
            block.bias.data.sub_(LR * block.bias.grad)
        head.zero_grad()
    return head, seen


@pytest.mark.parametrize(
    ("counts", "case"),
    [pytest.param(counts, case, id=f"{len(counts)} ranks, {case}") for counts in RANKS for case in cases_of(counts)],
)
def test_losses_gradients_updates_and_predictions_equal_a_plain_head(counts, case):
    problem, (config, accumulation) = problem_of(counts), cases_of(counts)[case]
    gathered = trained(counts)[case]
    head, seen = train_plain(problem, config, accumulation)
    for rank, (results, _, _) in enumerate(gathered):
        for step, (loss, gradient) in enumerate(results):
            expected_loss, expected_gradient = seen[step * len(counts) + rank]
            assert loss == pytest.approx(expected_loss, rel=1e-4)
            np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-5)

    weight = torch.cat([block.weight for block in head.blocks]).detach().numpy()
    bias = torch.cat([block.bias for block in head.blocks]).detach().numpy()
    positions = np.concatenate([rows["positions"] for _, rows, _ in gathered])
    assert sorted(positions.tolist()) == list(range(len(weight)))
    np.testing.assert_allclose(
        np.concatenate([rows["weight"] for _, rows, _ in gathered]), weight[positions], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        np.concatenate([rows["bias"] for _, rows, _ in gathered]), bias[positions], rtol=1e-4, atol=1e-6
    )

    for rank, (_, _, (found, logits)) in enumerate(gathered):
        features, leaves, _ = problem[3][0][rank]
        leaves = leaves if config.candidates == "shortlist" else None
        expected_positions, expected = head.predict(torch.from_numpy(features), leaves, 3, weighted=True)
        np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert found.tolist() == expected_positions.tolist()


def test_the_gradient_of_the_features_is_that_of_the_loss():
    """Numerically, as gradcheck does it, but in float32, which is what the rows are."""
    from cxml.parallel import Exchange, RowLayout, make_level

    offsets, weight, bias, steps = make_problem(3, 6, (3,))
    head = make_level(RowLayout.round_robin(offsets, 0, 1), weight.shape[1], Exchange(), SGD, OptimConfig())
    head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
    features, leaves, keys = steps[0][0]
    head.schedule.begin_step(0.0, 0.9)  # a learning rate of zero leaves the rows in place
    x = torch.from_numpy(features).requires_grad_()
    head.loss(x, leaves, keys, 1.0).backward()
    for index in np.ndindex(*features.shape):
        shifted = []
        for change in (1e-2, -1e-2):
            moved = features.copy()
            moved[index] += change
            with torch.no_grad():
                shifted.append(head.loss(torch.from_numpy(moved), leaves, keys, 1.0).item())
        assert x.grad[index].item() == pytest.approx((shifted[0] - shifted[1]) / 2e-2, abs=2e-3)


def test_without_clusters_every_label_is_scored():
    from cxml.parallel import Exchange, RowLayout, make_level
    from cxml.parallel.row_layout import leaf_offsets_of

    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(150, 5)).astype(np.float32), rng.normal(size=150).astype(np.float32)
    head = make_level(RowLayout.round_robin(leaf_offsets_of((), 150), 0, 1), 5, Exchange(), SGD, OptimConfig())
    head.import_rows(torch.arange(150), torch.from_numpy(weight), torch.from_numpy(bias))
    x = torch.from_numpy(rng.normal(size=(3, 5)).astype(np.float32))
    logits = x @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    keys = torch.tensor([4, 150 + 149, 300 + 64, 300 + 70])
    truth = torch.zeros(450).index_fill(0, keys, 1).view(3, 150)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
    with torch.no_grad():
        assert head.loss(x, None, keys, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)
    positions, found = head.predict(x, None, 4, weighted=True)
    best = logits.topk(4, dim=1)
    assert positions.tolist() == best.indices.tolist()
    torch.testing.assert_close(found, best.values)


@pytest.mark.parametrize("config", [SGD, ALL], ids=["shortlist", "all labels"])
def test_rows_learn_with_gradients_enabled_be_the_features_frozen_or_not(config):
    from cxml.parallel import Exchange, RowLayout, make_level

    offsets, weight, bias, steps = make_problem(5, 4, (2,))
    features, leaves, keys = steps[0][0]
    without_decay = OptimConfig(classifier_weight_decay=0)

    def weight_after_a_step(enabled, frozen):
        head = make_level(RowLayout.round_robin(offsets, 0, 1), weight.shape[1], Exchange(), config, without_decay)
        head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
        head.schedule.begin_step(0.1, 0.9)
        with torch.set_grad_enabled(enabled):
            loss = head.loss(torch.from_numpy(features).requires_grad_(not frozen), leaves, keys, 1.0)
        if enabled:
            loss.backward()
            head.finish_step(torch.tensor(True))
        return np.concatenate([block["weight"] for block in head.export_rows()])

    np.testing.assert_array_equal(weight_after_a_step(enabled=False, frozen=False), weight)
    learnt = weight_after_a_step(enabled=True, frozen=False)
    assert not np.array_equal(learnt, weight)
    np.testing.assert_array_equal(weight_after_a_step(enabled=True, frozen=True), learnt)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16-kahan", "fp8"])
def test_many_labels_are_scored_in_chunks_as_if_at_once(weights):
    from cxml.parallel import Exchange, RowLayout, make_level
    from cxml.parallel.row_layout import leaf_offsets_of

    num_labels = 5000  # chunks of 512 rows and a rest
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(num_labels, 5)).astype(np.float32)).bfloat16().float()
    bias = torch.from_numpy(rng.normal(size=num_labels).astype(np.float32))
    config = dataclasses.replace(ALL, weights=weights)
    head = make_level(
        RowLayout.round_robin(leaf_offsets_of((), num_labels), 0, 1), 5, Exchange(), config, OptimConfig()
    )
    head.import_rows(torch.arange(num_labels), weight, bias)
    if weights == "fp8":  # the others hold what was given to them
        weight = next(head.export_rows())["weight"]
    x = torch.from_numpy(rng.normal(size=(3, 5)).astype(np.float32)).requires_grad_()
    keys = torch.tensor([2047, num_labels + 2048, 2 * num_labels, 3 * num_labels - 1])
    truth = torch.zeros(3 * num_labels).index_fill(0, keys, 1).view(3, num_labels)

    plain = weight.clone().requires_grad_()
    logits = x @ plain.T + bias
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / 1000
    expected_gradient, weight_gradient = torch.autograd.grad(expected, (x, plain))
    best = logits.topk(4, dim=1)
    positions, found = head.predict(x, None, 4, weighted=True)
    assert positions.tolist() == best.indices.tolist()
    torch.testing.assert_close(found, best.values.detach())

    head.schedule.begin_step(10.0, 0.9)
    loss = head.loss(x, None, keys, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(x.grad, expected_gradient, rtol=1e-4, atol=1e-6)
    decayed = weight * (1 - 10.0 * OptimConfig().classifier_weight_decay)
    rounding, least = {"fp32": (1e-5, 1e-6), "fp8": (2**-3, 2**-13)}.get(weights, (2**-7 + 1e-5, 1e-6))
    torch.testing.assert_close(
        next(head.export_rows())["weight"], decayed - 5.0 * weight_gradient, rtol=rounding, atol=least
    )
