"""Rows in e4m3 with a scale per row: rounding to nearest, unbiased random rounding, and the CPU kernels.

Oracles: PyTorch's own conversion, the mean over all noises, and the plain PyTorch kernels.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.row_problems import (
    SCALE,
    assert_near,
    assert_same_rows,
    assert_same_sums,
    make_all_rows,
    make_leaf_rows,
    make_rows,
    make_shortlists,
    update,
)  # fmt: skip

from cxml.optim import (
    CpuAllRowsKernels,
    CpuShortlistKernels,
    RowSchedule,
    RowState,
    RowTensors,
    TorchAllRowsKernels,
    TorchShortlistKernels,
    current_weights,
    update_rows,
    update_run,
)
from cxml.optim.row_formats import NEAREST_FP8, to_float32, to_fp8

CPU = torch.device("cpu")
CASES = {
    "shortlists": (CpuShortlistKernels(), TorchShortlistKernels(), make_shortlists),
    "every row": (CpuAllRowsKernels(), TorchAllRowsKernels(), make_all_rows),
}


def decoded(values, noise):
    bits, scale = to_fp8(values, noise)
    return torch.from_numpy(to_float32(bits.numpy(), scale.numpy()))


def rows_of(seed, spread):
    """Rows whose numbers differ by many powers of two, zeros among them."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(16, 33)) * 2.0 ** rng.uniform(-spread, spread, (16, 33))
    values[rng.random(values.shape) < 0.05] = 0
    return torch.from_numpy(values.astype(np.float32))


@given(st.integers(0, 10_000), st.sampled_from([0.5, 4.0, 20.0]))
def test_rounding_to_nearest_is_torchs_own_of_the_scaled_row(seed, spread):
    values = rows_of(seed, spread)
    _, scale = to_fp8(values, NEAREST_FP8)
    largest = (values / scale[:, None]).abs().amax(1)
    assert ((largest > 128) & (largest <= 256)).all()
    expected = (values / scale[:, None]).to(torch.float8_e4m3fn).float() * scale[:, None]
    assert torch.equal(decoded(values, NEAREST_FP8), expected)


@given(st.integers(0, 10_000))
def test_what_is_e4m3_already_is_not_rounded_again_whatever_the_noise(seed):
    once = decoded(rows_of(seed, 6.0), NEAREST_FP8)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        noise = torch.randint(0, 2**20, once.shape, dtype=torch.int32, generator=generator)
        assert torch.equal(decoded(once, noise), once)


@pytest.mark.parametrize("value", [200.3, 1.07, -0.015624, 0.0047, -0.0003, 1e-5])
def test_over_all_noises_a_weight_is_its_own_mean(value):
    noise = torch.arange(2**20, dtype=torch.int32)[:, None]
    values = torch.tensor([[value, 255.0]]).expand(2**20, -1)
    found = decoded(values, torch.cat([noise, noise], dim=1))[:, 0].double()
    gap = max(2.0 ** (np.floor(np.log2(abs(value))) - 3), 2**-9)
    assert (found - value).abs().max() < gap
    assert abs(found.mean() - value) <= gap * 2**-19


def test_no_rounding_overflows():
    values = torch.full((4, 8), 256.0).nextafter(torch.tensor(0.0))
    assert torch.equal(decoded(values, 2**20 - 1), torch.full((4, 8), 256.0))


def test_compiled_rows_are_rounded_bit_for_bit_as_in_torch():
    values = rows_of(7, 6.0)
    one_by_one, in_runs = (
        RowState.zeros(*values.shape, optimizer="sgd", weights="fp8", second_moment="full") for _ in range(2)
    )
    schedule, ids = RowSchedule(decay=0.0, beta2=0.9, epsilon=1e-8), np.arange(len(values)) * 1_000_003
    schedule.begin_step(1.0, 0.9)
    zeros = np.zeros(len(values), np.float32)
    update_rows(
        one_by_one, schedule,
        rows=np.arange(len(values)), gradients=-values.numpy(), bias_gradients=zeros, row_ids=ids,
    )  # fmt: skip
    update_run(
        RowTensors.of(in_runs, CPU), slice(None), schedule,
        gradients=-values, bias_gradients=torch.from_numpy(zeros), row_ids=torch.from_numpy(ids),
    )  # fmt: skip
    np.testing.assert_array_equal(one_by_one.weight, in_runs.weight)
    np.testing.assert_array_equal(one_by_one.scale, in_runs.scale)
    gap = np.abs(values.numpy()) / 8 + one_by_one.scale[:, None] * 2.0**-9
    assert (np.abs(current_weights(RowTensors.of(one_by_one, CPU), schedule).numpy() - values.numpy()) <= gap).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["fp8, SGD", "fp8, SGD, clipped", "fp8, one second moment per row"])
def test_the_cpus_kernels_do_what_plain_torch_does(form, case):
    kernels, reference, make = CASES[case]
    (found, schedule), (expected, _) = (make_rows(384, form, CPU) for _ in range(2))
    leaf_rows, candidates = make_leaf_rows(CPU), make(384, CPU)
    arguments = found, leaf_rows, candidates, schedule
    assert_same_sums(kernels.loss(*arguments), reference.loss(*arguments), 1e-5)
    assert_near(kernels.squares(*arguments, SCALE), reference.squares(*arguments, SCALE), 1e-5)
    for best, other in zip(kernels.best(*arguments, 9), reference.best(*arguments, 9), strict=True):
        assert_near(best.double(), other.double(), 1e-6)
    for own, rows in ((kernels, found), (reference, expected)):
        update(own, rows, leaf_rows, candidates, schedule)
    assert_same_rows(found, expected, 1e-4)
