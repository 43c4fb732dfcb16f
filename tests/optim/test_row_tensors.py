"""PyTorch updates of runs of rows equal the compiled updates of single rows, in every number format."""

import numpy as np
import pytest
import torch

from cxml.accelerators import device_of
from cxml.optim import RowSchedule, RowState, RowTensors, current_weights, update_rows, update_run

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
    # A weight may be rounded the other way where the two differ in the last bit of a float32.
    tolerance = {"fp32": 1e-5, "fp8": 2**-3}.get(weights, 2**-7)
    found = current_weights(tensors, schedule).cpu().numpy()
    expected = current_weights(RowTensors.of(one_by_one, torch.device("cpu")), schedule).numpy()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-6)
    assert (np.abs(found - expected) <= 1e-5 * np.abs(expected) + 1e-7).mean() > 0.9
    np.testing.assert_allclose(tensors.bias.cpu(), one_by_one.bias, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(tensors.updates.cpu(), one_by_one.updates)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16-kahan"])
@pytest.mark.parametrize(("optimizer", "second_moment"), [("adamw", "full"), ("adamw", "row"), ("sgd", "full")])
def test_rows_made_on_a_device_have_the_form_of_those_made_in_host_memory(optimizer, weights, second_moment):
    form = {"optimizer": optimizer, "weights": weights, "second_moment": second_moment}
    on_device = RowTensors.zeros(ROWS, WIDTH, torch.device("meta"), **form)
    in_host_memory = RowTensors.of(RowState.zeros(ROWS, WIDTH, **form), torch.device("cpu"))
    for name, expected in vars(in_host_memory).items():
        found = getattr(on_device, name)
        assert (found.shape, found.dtype, found.device.type) == (expected.shape, expected.dtype, "meta"), name
