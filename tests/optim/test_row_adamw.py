"""Lazy updates of label rows end where the dense schedule ends, in every number format.

Oracles: dense updates of all rows in float64 (hypothesis), and `torch.optim.AdamW`.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxml.optim import RowSchedule, RowState, RowTensors, current_weights, update_rows

ROWS, WIDTH, DECAY, BETA2, EPSILON = 12, 6, 0.1, 0.999, 1e-8


class DenseOracle:
    """Updates every row at every step in float64, as the docstring of cxml.optim.row_adamw describes it."""

    def __init__(self, optimizer, second_moment):
        self.weight, self.bias = np.zeros((ROWS, WIDTH)), np.zeros(ROWS)
        self.moment, self.second = np.zeros((ROWS, WIDTH + 1)), np.zeros((ROWS, WIDTH + 1))
        self.updates = np.zeros(ROWS)
        self.optimizer, self.second_moment = optimizer, second_moment

    def step(self, lr, beta1, rows, gradients, bias_gradients):
        self.weight *= 1 - lr * DECAY
        both = np.concatenate([gradients, bias_gradients[:, None]], axis=1).astype(np.float64)
        if self.optimizer == "sgd":
            change = lr * both
        else:
            squares = both**2
            if self.second_moment == "row":
                squares[:, :WIDTH] = squares[:, :WIDTH].mean(1, keepdims=True)
            self.updates[rows] += 1
            self.moment[rows] = beta1 * self.moment[rows] + (1 - beta1) * both
            self.second[rows] = BETA2 * self.second[rows] + (1 - BETA2) * squares
            taken = self.updates[rows][:, None]
            mean, spread = self.moment[rows] / (1 - beta1**taken), self.second[rows] / (1 - BETA2**taken)
            change = lr * mean / (np.sqrt(spread) + EPSILON)
        self.weight[rows] -= change[:, :WIDTH]
        self.bias[rows] -= change[:, WIDTH]


steps = st.lists(
    st.tuples(st.floats(1e-4, 0.1), st.floats(0.8, 0.95), st.sets(st.integers(0, ROWS - 1), max_size=5)), max_size=25
)


@settings(max_examples=40, deadline=None)
@given(steps, st.sampled_from(["adamw", "sgd"]), st.sampled_from(["full", "row"]), st.integers(0, 99))
def test_after_any_steps_every_row_is_where_the_dense_schedule_puts_it(sequence, optimizer, second_moment, seed):
    rng = np.random.default_rng(seed)
    state = RowState.zeros(ROWS, WIDTH, optimizer=optimizer, weights="fp32", second_moment=second_moment)
    schedule = RowSchedule(decay=DECAY, beta2=BETA2, epsilon=EPSILON)
    oracle = DenseOracle(optimizer, second_moment)
    for lr, beta1, touched in sequence:
        rows = np.array(sorted(touched), np.int64)
        gradients = rng.normal(size=(len(rows), WIDTH)).astype(np.float32)
        bias_gradients = rng.normal(size=len(rows)).astype(np.float32)
        schedule.begin_step(lr, beta1)
        update_rows(state, schedule, rows=rows, gradients=gradients, bias_gradients=bias_gradients, row_ids=rows)
        oracle.step(lr, beta1, rows, gradients, bias_gradients)
    np.testing.assert_allclose(
        current_weights(RowTensors.of(state, torch.device("cpu")), schedule).numpy(),
        oracle.weight,
        rtol=1e-4,
        atol=2e-6,
    )
    np.testing.assert_allclose(state.bias, oracle.bias, rtol=1e-4, atol=2e-6)


def run(weights, num_steps, gradient, lr=1e-3, clip=0.0):
    state = RowState.zeros(ROWS, WIDTH, optimizer="sgd", weights=weights, second_moment="full")
    schedule = RowSchedule(decay=0.0, beta2=BETA2, epsilon=EPSILON, clip_row_norm=clip)
    rows = np.arange(ROWS)
    for _ in range(num_steps):
        schedule.begin_step(lr, 0.9)
        update_rows(
            state,
            schedule,
            rows=rows,
            gradients=np.full((ROWS, WIDTH), gradient, np.float32),
            bias_gradients=np.zeros(ROWS, np.float32),
            row_ids=rows,
        )
    return current_weights(RowTensors.of(state, torch.device("cpu")), schedule).numpy()


def test_rows_touched_at_every_step_equal_torch_adamw():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, BETA2), weight_decay=DECAY)
    state = RowState.zeros(ROWS, WIDTH, optimizer="adamw", weights="fp32", second_moment="full")
    state.weight[:] = start
    schedule = RowSchedule(decay=DECAY, beta2=BETA2, epsilon=EPSILON)
    rows = np.arange(ROWS)
    for _ in range(20):
        gradients = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        weight.grad = torch.from_numpy(gradients)
        optimizer.step()
        schedule.begin_step(1e-2, 0.9)
        zeros = np.zeros(ROWS, np.float32)
        update_rows(state, schedule, rows=rows, gradients=gradients, bias_gradients=zeros, row_ids=rows)
    np.testing.assert_allclose(
        current_weights(RowTensors.of(state, torch.device("cpu")), schedule).numpy(),
        weight.detach().numpy(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_bf16_rows_keep_updates_too_small_for_their_format_on_average():
    # Near 1 the next bfloat16 below is 2**-8 away: a step of 1e-4, rounded to nearest, would never move the weight.
    moved = run("bf16", 2000, 1.0, lr=1e-4)
    assert np.abs(moved.mean() + 0.2) < 0.01


def test_fp8_rows_keep_updates_too_small_for_their_format_on_average():
    moved = run("fp8", 2000, 1.0, lr=1e-4)  # from 0.125 on e4m3 are 2**-6 apart: the mean of 72 spreads by 0.007
    assert np.abs(moved.mean() + 0.2) < 0.02


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_random_rounding_is_the_same_in_every_run(weights):
    one, other = (run(weights, 50, 1.0, lr=1e-4) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one)) > 1, "rows round apart"


def test_kahan_rows_lose_next_to_nothing_of_updates_too_small_for_their_format():
    moved = run("bf16-kahan", 2000, 1.0, lr=1e-4)
    np.testing.assert_allclose(moved, -0.2, atol=2**-9)  # as near as bfloat16 gets; plain rounding would stop at 2**-6


def test_the_gradient_of_a_row_is_clipped_to_the_given_norm():
    moved = run("fp32", 1, 100.0, lr=1.0, clip=0.5)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"optimizer": "adamw", "weights": "fp32", "second_moment": "full"}, 12 * WIDTH + 20),
        ({"optimizer": "adamw", "weights": "bf16", "second_moment": "full"}, 10 * WIDTH + 20),
        ({"optimizer": "adamw", "weights": "fp32", "second_moment": "row"}, 8 * WIDTH + 24),
        ({"optimizer": "sgd", "weights": "bf16", "second_moment": "full"}, 2 * WIDTH + 12),
        ({"optimizer": "sgd", "weights": "bf16-kahan", "second_moment": "full"}, 4 * WIDTH + 12),
        ({"optimizer": "sgd", "weights": "fp8", "second_moment": "full"}, WIDTH + 16),
        ({"optimizer": "adamw", "weights": "fp8", "second_moment": "row"}, 5 * WIDTH + 28),
    ],
)
def test_a_row_takes_the_bytes_that_the_docstring_says(settings_, expected):
    assert RowState.bytes_per_row(WIDTH, **settings_) == expected
