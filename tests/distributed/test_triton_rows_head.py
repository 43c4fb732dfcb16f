"""The kernels for rows on a GPU against the compiled loops of the CPU: on a GPU, else in Triton's interpreter.

For bfloat16 rows the kernels round the factors of their products to bfloat16, and on a GPU those of float32 rows to
tf32; the compiled loops do not. See `tests/optim/test_row_triton.py` for the tolerances.
"""

import dataclasses

import numpy as np
import pytest
import torch
from support.heads import make_problem

from cxml.accelerators import device_of
from cxml.config import HeadConfig, OptimConfig
from cxml.parallel import Exchange, RowLayout, RowsHead, TritonRowsHead

pytest.importorskip("triton")

DEVICE = device_of(0)
NUM_LEAVES, NUM_TEXTS, STEPS = 3, 20, 2  # more texts than one product of the kernels takes
CASES = {
    "SGD": HeadConfig(optimizer="sgd"),
    "AdamW": HeadConfig(),
    "one second moment per row": HeadConfig(second_moment="row"),
    "bfloat16": HeadConfig(weights="bf16"),
    "bfloat16, Kahan": HeadConfig(weights="bf16-kahan", second_moment="row"),
    "each row clipped": HeadConfig(clip_row_norm=0.01),
    "updated at the end of the step, clipped": HeadConfig(clip_global_norm=0.05),
}


@pytest.fixture(scope="module")
def problem():
    return make_problem(11, NUM_LEAVES, (NUM_TEXTS,), rows_per_leaf=24)


def heads(problem, config, accumulation=1):
    """The same rows as a head on the CPU and one of kernels."""
    offsets, weight, bias, _ = problem
    made = []
    for kind in (RowsHead, TritonRowsHead):
        layout = RowLayout.deal(offsets, 0, 1)
        head = kind(layout, weight.shape[1], Exchange(), config, OptimConfig(), accumulation=accumulation)
        head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
        made.append(head)
    return made


def place(features, head):
    """The features of a step where this head works on them."""
    return torch.from_numpy(features).to(DEVICE if isinstance(head, TritonRowsHead) else "cpu")


def train(head, steps, accumulation=1):
    """Losses and gradients of the features."""
    seen = []
    for step in range(STEPS):
        head.schedule.begin_step(0.05, 0.9 - 0.1 * step)
        for _ in range(accumulation):
            features, leaves, keys = steps[len(seen) % len(steps)][0]
            x = place(features, head).requires_grad_()
            loss = head.loss(x, leaves, keys, 1 / NUM_TEXTS)
            loss.backward()
            seen.append((loss.item(), x.grad.cpu()))
        head.finish_step()
    return seen


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_all_of_the_rows_state_are_those_of_the_compiled_loops(problem, case, accumulation):
    plain, kernels = heads(problem, CASES[case], accumulation)
    expected, found = (train(head, problem[3], accumulation) for head in (plain, kernels))
    is_rounded = CASES[case].weights != "fp32"
    limit = 2**-6 if is_rounded else 2e-5 if DEVICE.type == "cpu" else 2**-8
    for (loss, gradient), (other_loss, other_gradient) in zip(expected, found, strict=True):
        assert other_loss == pytest.approx(loss, rel=limit)
        torch.testing.assert_close(other_gradient, gradient, rtol=limit, atol=limit * float(gradient.abs().max()))
    for name, array in vars(plain.state).items():
        other = getattr(kernels.state, name)
        assert other.dtype == array.dtype
        if name == "compensation":
            continue  # what a weight rounded the other way lacks is another number; the sum is compared below
        a, b = (as_float(values) for values in (array, other))
        np.testing.assert_allclose(b, a, rtol=limit, atol=limit * np.abs(a).max(initial=0))
    if plain.state.compensation.size:
        whole = [as_float(head.state.weight) + as_float(head.state.compensation) for head in (plain, kernels)]
        np.testing.assert_allclose(whole[1], whole[0], rtol=limit, atol=limit)


def as_float(array):
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_predictions_are_those_of_the_compiled_loops(problem, weights):
    plain, kernels = heads(problem, dataclasses.replace(CASES["AdamW"], weights=weights))
    train(plain, problem[3])
    kernels.state, kernels.schedule = plain.state, plain.schedule
    features, leaves, _ = problem[3][0][0]
    for k in (1, 7, 200):
        expected, found = (
            [part.cpu() for part in head.predict(place(features, head), leaves, k, weighted=True)]
            for head in (plain, kernels)
        )
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_texts_that_want_nothing_of_this_rank_get_nothing(problem):
    _, head = heads(problem, HeadConfig())
    features, leaves, _ = problem[3][0][0]
    none = dataclasses.replace(leaves, mask=torch.zeros_like(leaves.mask))
    positions, logits = head.predict(place(features, head), none, 3, weighted=True)
    assert (positions == -1).all()
    assert logits.isneginf().all()
