"""The Triton kernels at the widths of real encoders: on a GPU, else in Triton's interpreter.

Tolerances are relative to the largest number of an array. For float32 rows they are 1e-5 in the interpreter, which
multiplies in float32, and 2^-8 on a card, which rounds factors to tf32 with an error of at most 2^-10 each. For
bfloat16 rows they are 2^-6: both round features and slopes to bfloat16, with an error of at most 2^-8 each.
"""

import numpy as np
import pytest
import torch

from cxml.accelerators import device_of
from cxml.model.ranking import NO_KEY
from cxml.optim import RowSchedule, RowState, RowTensors, best_rows, train_groups, update_rows
from cxml.parallel.leaf_groups import LeafGroups

pytest.importorskip("triton")

DEVICE = device_of(0)
WIDTHS = (384, 768, 1024)
LEAVES = [(0, 18), (18, 23)]  # rows; the first is more than one program has
WANTS = [list(range(20)), [3, 7, 19]]  # texts of each leaf; the first are more than one product takes
NUM_ROWS, NUM_TEXTS, SHIFT = 23, 20, 1_000_003
SCALE = 0.5
FORMATS = {
    "fp32": ("fp32", "adamw", "full", 0.0),
    "fp32, one second moment per row": ("fp32", "adamw", "row", 0.0),
    "fp32, SGD": ("fp32", "sgd", "full", 0.0),
    "fp32, clipped": ("fp32", "adamw", "full", 0.05),
    "bf16": ("bf16", "adamw", "full", 0.0),
    "bf16, one second moment per row, clipped": ("bf16", "adamw", "row", 0.05),
    "bf16, SGD": ("bf16", "sgd", "full", 0.0),
    "bf16 with compensation": ("bf16-kahan", "adamw", "full", 0.0),
    "bf16 with compensation, SGD, clipped": ("bf16-kahan", "sgd", "full", 0.05),
}


def tolerance(weights, *, multiplies=True):
    if not multiplies or (weights == "fp32" and DEVICE.type == "cpu"):
        return 1e-5
    return 2**-8 if weights == "fp32" else 2**-6


def make_state(width, form):
    """Rows in the middle of training; their moments are far from zero, where the update is not a smooth function."""
    weights, optimizer, second, clip = FORMATS[form]
    rng = np.random.default_rng(0)
    state = RowState.zeros(NUM_ROWS, width, optimizer=optimizer, weights=weights, second_moment=second)
    values = rng.normal(size=state.weight.shape).astype(np.float32)
    if weights == "fp32":
        state.weight[:] = values
    else:
        state.weight[:] = values.view(np.uint32) >> 16
    if state.compensation.size:
        state.compensation[:] = (values / 1000).view(np.uint32) >> 16
    state.bias[:] = rng.normal(size=NUM_ROWS)
    state.moment[:] = rng.normal(size=state.moment.shape) / 100
    state.second[:] = rng.uniform(1e-4, 1e-3, state.second.shape)
    state.bias_moments[:] = rng.uniform(1e-4, 1e-3, state.bias_moments.shape)
    state.last_step[:] = rng.integers(0, 3, NUM_ROWS)
    state.updates[:] = rng.integers(2, 9, NUM_ROWS)
    schedule = RowSchedule(decay=0.5, beta2=0.99, epsilon=1e-8, clip_row_norm=clip)
    for _ in range(4):
        schedule.begin_step(0.01, 0.9)
    return state, schedule


def make_batch(width):
    """Groups of pairs, features, inverse counts and truths."""
    rng = np.random.default_rng(1)
    starts, ends = np.array(LEAVES).T
    counts = np.array([len(texts) for texts in WANTS])
    groups = LeafGroups(
        starts, ends, np.full(len(starts), SHIFT), np.append(0, counts.cumsum()), np.concatenate(WANTS),
        np.append(0, ((ends - starts) * counts).cumsum()), np.append(0, (ends - starts).cumsum()),
    )  # fmt: skip
    features = (rng.normal(size=(NUM_TEXTS, width)) / np.sqrt(width)).astype(np.float32)
    shares = rng.uniform(0.01, 0.1, NUM_TEXTS).astype(np.float32)
    return groups, features, shares, (rng.random(groups.score_ptr[-1]) < 0.2).astype(np.uint8)


def as_float(array):
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def log_decay(schedule):
    return torch.from_numpy(schedule.log_decay[: schedule.step + 1]).to(DEVICE)


def train_on_device(state, schedule, batch, mode):
    """Sums and gradients of `train_groups_on_device`; the state changes as on the CPU."""
    from cxml.optim.row_triton import train_groups_on_device

    groups, *arrays = batch
    rows = RowTensors.of(state, DEVICE)
    found = train_groups_on_device(
        groups.arrays(), *(torch.from_numpy(array).to(DEVICE) for array in arrays), SCALE, mode, schedule,
        log_decay(schedule), rows,
    )  # fmt: skip
    rows.copy_to(state)
    return [part.cpu().numpy() for part in found]


def slow_reference(state, schedule, batch):
    """Sums and gradients in float64, pair by pair."""
    _, features, shares, is_true = batch
    settled = np.exp(schedule.log_decay[schedule.step - 1] - schedule.log_decay[state.last_step])
    weight = as_float(state.weight).astype(np.float64) * settled[:, None]
    sums = np.zeros((NUM_TEXTS, features.shape[1] + 1))
    gradients = np.zeros((NUM_ROWS, features.shape[1] + 1))
    truths = iter(is_true)
    for (start, end), texts in zip(LEAVES, WANTS, strict=True):
        for row in range(start, end):
            for text in texts:
                logit, truth = weight[row] @ features[text].astype(np.float64) + state.bias[row], next(truths)
                slope = (1 / (1 + np.exp(-logit)) - truth) * shares[text]
                sums[text, :-1] += slope * weight[row]
                sums[text, -1] += (np.logaddexp(0, logit) - logit * truth) * shares[text]
                gradients[row] += SCALE * slope * np.append(features[text], 1)
    return sums, gradients


def assert_near(found, expected, limit):
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    if expected.size:
        assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_losses_and_gradients_are_those_of_a_sum_over_pairs(width, form):
    batch = make_batch(width)
    state, schedule = make_state(width, form)
    sums, gradients = slow_reference(state, schedule, batch)
    for mode in (0, 2):
        before = [array.copy() for array in vars(state).values()]
        found = train_on_device(state, schedule, batch, mode)
        assert_near(found[0][:, :-1], sums[:, :-1], tolerance(form))
        assert_near(found[0][:, -1], sums[:, -1], tolerance(form))
        if mode == 2:
            assert_near(found[1][:, :-1], gradients[:, :-1], tolerance(form))
            assert_near(found[1][:, -1], gradients[:, -1], tolerance(form))
        for array, expected in zip(vars(state).values(), before, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_step_leaves_the_state_that_the_compiled_loops_leave(width, form):
    batch = make_batch(width)
    (expected, schedule), (found, _) = make_state(width, form), make_state(width, form)
    groups, features, shares, is_true = batch
    sums = train_groups(
        groups.arrays(), groups.chunks(), features, shares, is_true, np.float32(SCALE), 1, schedule.pack(),
        schedule.log_decay, tuple(vars(expected).values()), np.empty((0, width + 1), np.float32),
    )  # fmt: skip
    limit = tolerance(FORMATS[form][0])
    device_sums, _ = train_on_device(found, schedule, batch, 1)
    assert_near(device_sums[:, :-1], sums[:, :-1], limit)
    assert_near(device_sums[:, -1], sums[:, -1], limit)
    assert_same_state(found, expected, limit)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", FORMATS)
def test_gradients_at_hand_update_rows_as_the_compiled_loops_do(width, form):
    from cxml.optim.row_triton import update_rows_on_device

    (expected, schedule), (found, _) = make_state(width, form), make_state(width, form)
    rng = np.random.default_rng(2)
    which = rng.permutation(NUM_ROWS)[:19]
    gradients = (rng.normal(size=(len(which), width + 1)) / 100).astype(np.float32)
    update_rows(
        expected, schedule, rows=which, gradients=gradients[:, :-1], bias_gradients=gradients[:, -1],
        row_ids=which + SHIFT,
    )  # fmt: skip
    rows = RowTensors.of(found, DEVICE)
    update_rows_on_device(
        rows, schedule, log_decay(schedule), which=torch.from_numpy(which).to(DEVICE),
        gradients=torch.from_numpy(gradients).to(DEVICE), row_ids=torch.from_numpy(which + SHIFT).to(DEVICE),
    )  # fmt: skip
    rows.copy_to(found)
    assert_same_state(found, expected, tolerance(FORMATS[form][0], multiplies=False))


def assert_same_state(found, expected, limit):
    for name, array in vars(expected).items():
        other = getattr(found, name)
        if name in {"last_step", "updates"}:
            np.testing.assert_array_equal(other, array)
        elif name not in {"weight", "compensation"}:
            assert_near(other, array, limit)
    weight, other = as_float(expected.weight), as_float(found.weight)
    if expected.compensation.size:
        weight, other = (as_float(s.weight) + as_float(s.compensation) for s in (expected, found))
    if expected.weight.dtype == np.float32 or expected.compensation.size:
        assert_near(other, weight, limit)
        return
    # A weight that is rounded at random may go the other way where the two differ a little before rounding.
    np.testing.assert_allclose(other, weight, rtol=2**-7, atol=1e-6)
    assert (other == weight).mean() > 0.95


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_best_rows_are_those_of_the_compiled_loops(width, form):
    from cxml.optim.row_triton import best_rows_on_device

    state, schedule = make_state(width, form)
    features = make_batch(width)[1]
    wanted = [[leaf for leaf, texts in enumerate(WANTS) if text in texts] for text in range(NUM_TEXTS)]
    flat = np.concatenate(wanted)
    first_rows, last_rows = np.array(LEAVES)[flat].T.copy()
    leaf_ptr = np.append(0, np.cumsum([len(leaves) for leaves in wanted]))
    arrays = (leaf_ptr, first_rows, last_rows, np.full(len(flat), np.inf, np.float32), np.full(len(flat), SHIFT))
    expected = best_rows(
        features, *arrays, 5, schedule.log_decay, schedule.step, tuple(vars(state).values())
    )  # fmt: skip
    found = best_rows_on_device(
        torch.from_numpy(features).to(DEVICE), [torch.from_numpy(array).to(DEVICE) for array in arrays], 5,
        log_decay(schedule), schedule.step, RowTensors.of(state, DEVICE),
    )  # fmt: skip
    assert (expected[0] != NO_KEY).all()
    np.testing.assert_array_equal(found[1].cpu().numpy(), expected[1])
