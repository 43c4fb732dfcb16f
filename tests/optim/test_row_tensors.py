"""Updates of whole runs in torch against the compiled updates of single rows."""

import numpy as np
import pytest
import torch

from cxml.accelerators import device_of
from cxml.optim import RowSchedule, RowState, RowTensors, settled_weights, update_rows, update_run

DEVICE = device_of(0)
ROWS, WIDTH = 11, 7


def make(optimizer, weights, second_moment, clip):
    state = RowState.zeros(ROWS, WIDTH, optimizer=optimizer, weights=weights, second_moment=second_moment)
    return state, RowSchedule(decay=0.1, beta2=0.99, epsilon=1e-8, clip_row_norm=clip)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16-kahan", "fp8"])
@pytest.mark.parametrize(
    ("optimizer", "second_moment", "clip"), [("adamw", "full", 0.0), ("adamw", "row", 2.0), ("sgd", "full", 1.0)]
)
def test_runs_of_rows_take_the_same_updates_as_rows_one_by_one(optimizer, weights, second_moment, clip):
    rng = np.random.default_rng(0)
    one_by_one, schedule = make(optimizer, weights, second_moment, clip)
    in_runs, _ = make(optimizer, weights, second_moment, clip)
    tensors = RowTensors.of(in_runs, DEVICE)
    ids = np.arange(ROWS) * 1_000_003
    for step in range(12):
        schedule.begin_step(0.03, 0.9)
        if step % 3 == 2:  # an idle step, whose decay comes late
            continue
        gradients = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        bias_gradients = rng.normal(size=ROWS).astype(np.float32)
        update_rows(
            one_by_one, schedule,
            rows=np.arange(ROWS), gradients=gradients, bias_gradients=bias_gradients, row_ids=ids,
        )  # fmt: skip
        for run in (slice(0, 4), slice(4, ROWS)):
            update_run(
                tensors, run, schedule,
                gradients=torch.from_numpy(gradients[run]).to(DEVICE),
                bias_gradients=torch.from_numpy(bias_gradients[run]).to(DEVICE),
                row_ids=torch.from_numpy(ids[run]).to(DEVICE),
            )  # fmt: skip
    tensors.copy_to(in_runs)
    # A weight may be rounded the other way where the two differ in the last bit of a float32.
    tolerance = {"fp32": 1e-5, "fp8": 2**-3}.get(weights, 2**-7)
    found, expected = settled_weights(in_runs, schedule), settled_weights(one_by_one, schedule)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-6)
    assert (np.abs(found - expected) <= 1e-5 * np.abs(expected) + 1e-7).mean() > 0.9
    np.testing.assert_allclose(in_runs.bias, one_by_one.bias, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(in_runs.updates, one_by_one.updates)


def test_rows_come_back_from_a_copy():
    state, schedule = make("sgd", "bf16", "full", 0.0)
    schedule.begin_step(0.1, 0.9)
    tensors = RowTensors.of(state, torch.device("cpu"))
    copy = RowTensors(**{name: tensor.clone() for name, tensor in vars(tensors).items()})
    update_run(
        copy, slice(0, ROWS), schedule,
        gradients=torch.ones(ROWS, WIDTH), bias_gradients=torch.ones(ROWS), row_ids=torch.arange(ROWS),
    )  # fmt: skip
    assert not state.weight.any()
    copy.copy_to(state)
    np.testing.assert_allclose(settled_weights(state, schedule), -0.1, rtol=0.01)
