"""Rows spread over processes against one head of ordinary parameters on one process."""

import numpy as np
import pytest
import torch
from support.heads import LR, STEPS, make_problem, train_rows

from cxml.config import HeadConfig, OptimConfig
from cxml.model import EngineHead
from cxml.model.label_head import Leaves
from cxml.parallel import run_workers

SGD = HeadConfig(optimizer="sgd")


def plain_head(problem):
    offsets, weight, bias, _ = problem
    head = EngineHead(torch.from_numpy(offsets), len(weight), weight.shape[1], block_rows=7)
    for start, block in zip(range(0, len(weight), 7), head.blocks, strict=True):
        block.weight.data = torch.from_numpy(weight[start : start + 7].copy())
        block.bias.data = torch.from_numpy(bias[start : start + 7].copy())
    return head


def train_plain(problem, accumulation):
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
                loss = head.loss(x, leaves, keys, 1.0)
                (loss / total).backward()
                seen.append((loss.item(), x.grad.numpy() * total))
        for block in head.blocks:
            block.weight.data.mul_(1 - LR * decay).sub_(LR * block.weight.grad)
            block.bias.data.sub_(LR * block.bias.grad)
        head.zero_grad()
    return head, seen


@pytest.mark.parametrize(
    ("counts", "num_leaves", "accumulation"),
    [((4,), 9, 1), ((3, 2), 9, 1), ((1, 4, 2), 7, 2), ((2, 1, 3, 2), 3, 1)],
    ids=["1 rank", "2 ranks", "3 ranks, two micro-batches", "4 ranks, one without rows"],
)
def test_losses_gradients_updates_and_predictions_equal_a_plain_head(counts, num_leaves, accumulation):
    problem = make_problem(len(counts), num_leaves, counts)
    gathered = run_workers(train_rows, (problem, SGD, accumulation), len(counts))
    head, seen = train_plain(problem, accumulation)
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

    for rank, (_, _, (found, scores)) in enumerate(gathered):
        features, leaves, _ = problem[3][0][rank]
        expected_positions, expected = head.predict(torch.from_numpy(features), leaves, 3, weighted=True)
        width = expected.shape[1]
        np.testing.assert_allclose(scores[:, :width], expected.detach().numpy(), rtol=1e-4, atol=1e-6)
        assert found[:, :width].tolist() == expected_positions.tolist()


def test_the_gradient_of_the_features_is_that_of_the_loss():
    """Numerically, as gradcheck does it, but in float32, which is what the rows are."""
    from cxml.parallel import Exchange, RowLayout, RowsHead

    offsets, weight, bias, steps = make_problem(3, 6, (3,))
    head = RowsHead(RowLayout.deal(offsets, 0, 1), weight.shape[1], Exchange(), SGD, OptimConfig())
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
    from cxml.parallel import Exchange, RowLayout, RowsHead
    from cxml.parallel.row_layout import leaf_offsets_of

    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(150, 5)).astype(np.float32), rng.normal(size=150).astype(np.float32)
    head = RowsHead(RowLayout.deal(leaf_offsets_of((), 150), 0, 1), 5, Exchange(), SGD, OptimConfig())
    head.import_rows(torch.arange(150), torch.from_numpy(weight), torch.from_numpy(bias))
    x = torch.from_numpy(rng.normal(size=(3, 5)).astype(np.float32))
    logits = x @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    keys = torch.tensor([4, 150 + 149, 300 + 64, 300 + 70])
    truth = torch.zeros(450).index_fill(0, keys, 1).view(3, 150)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
    with torch.no_grad():
        assert head.loss(x, None, keys, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)
    positions, scores = head.predict(x, None, 4, weighted=True)
    best = torch.sigmoid(logits).topk(4, dim=1)
    assert positions.tolist() == best.indices.tolist()
    torch.testing.assert_close(scores, best.values)


def test_rows_are_only_touched_with_gradients_enabled():
    from cxml.parallel import Exchange, RowLayout, RowsHead

    offsets, weight, bias, steps = make_problem(5, 4, (2,))
    head = RowsHead(RowLayout.deal(offsets, 0, 1), weight.shape[1], Exchange(), SGD, OptimConfig())
    head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
    features, leaves, keys = steps[0][0]
    assert isinstance(leaves, Leaves)
    head.schedule.begin_step(0.1, 0.9)
    head.loss(torch.from_numpy(features), leaves, keys, 1.0)
    np.testing.assert_array_equal(head.state.weight, weight)
