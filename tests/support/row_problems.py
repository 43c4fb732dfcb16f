"""Label rows in the middle of training, texts that want them, and comparisons of two kernels' results."""

import numpy as np
import torch

from cxml.optim import RowSchedule, RowState, RowTensors
from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.row_formats import NEAREST_FP8, to_fp8

WIDTHS = (384, 768, 1024)
FORMATS = {  # weights, optimizer, second moment, largest norm of a row's gradient
    "fp32": ("fp32", "adamw", "full", 0.0),
    "fp32, one second moment per row": ("fp32", "adamw", "row", 0.0),
    "fp32, SGD": ("fp32", "sgd", "full", 0.0),
    "fp32, clipped": ("fp32", "adamw", "full", 0.002),
    "bf16": ("bf16", "adamw", "full", 0.0),
    "bf16, one second moment per row, clipped": ("bf16", "adamw", "row", 0.002),
    "bf16, SGD": ("bf16", "sgd", "full", 0.0),
    "fp8, SGD": ("fp8", "sgd", "full", 0.0),
    "fp8, SGD, clipped": ("fp8", "sgd", "full", 0.002),
    "fp8, one second moment per row": ("fp8", "adamw", "row", 0.0),
    "bf16 with compensation": ("bf16-kahan", "adamw", "full", 0.0),
    "bf16 with compensation, SGD, clipped": ("bf16-kahan", "sgd", "full", 0.002),
}
LEAF_SIZES = (0, 1, 40, 18, 3)
LEAF_POSITIONS = (100, 1_000, 2_000, 3_000, 4_000_000)
WANTS = {0: [1, 2], 1: [5], 2: list(range(20)), 3: [3, 7, 19]}  # texts of each leaf; nobody wants the last
NUM_ROWS, NUM_TEXTS, NUM_PADDING = sum(LEAF_SIZES), 22, 3
SCALE, FACTOR = 0.5, 0.75


def tolerance(weights, device):
    if weights != "fp32":
        return 2**-6
    return 1e-5 if device.type == "cpu" else 2**-8


def make_rows(width, form, device):
    """Rows in the middle of training. Their moments are far from zero, where the update is not a smooth function."""
    weights, optimizer, second, clip = FORMATS[form]
    rng = np.random.default_rng(0)
    state = RowState.zeros(NUM_ROWS, width, optimizer=optimizer, weights=weights, second_moment=second)
    values = rng.normal(size=state.weight.shape).astype(np.float32)
    if weights == "fp32":
        state.weight[:] = values
    elif weights == "fp8":
        bits, scale = to_fp8(torch.from_numpy(values), NEAREST_FP8)
        state.weight[:], state.scale[:] = bits.numpy(), scale.numpy()
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
    schedule = RowSchedule(
        decay=0.5, beta2=0.99, epsilon=1e-8, clip_row_norm=clip,
        log_decay=torch.zeros(1024, dtype=torch.float64, device=device),
    )  # fmt: skip
    for _ in range(4):
        schedule.begin_step(0.01, 0.9)
    return RowTensors.of(state, device), schedule


def make_leaf_rows(device):
    starts = torch.tensor(LEAF_SIZES).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts])
    return LeafRows(starts.to(device), torch.tensor(LEAF_POSITIONS, device=device), max(LEAF_SIZES))


def make_features(rng, width):
    return torch.from_numpy((rng.normal(size=(NUM_TEXTS, width)) / np.sqrt(width)).astype(np.float32))


def make_shortlists(width, device, *, seed=1, dtype=torch.float32, wants=WANTS):
    rng = np.random.default_rng(seed)
    pairs = [(leaf, text) for leaf, texts in wants.items() for text in texts]
    pairs += [(len(LEAF_SIZES), 0)] * NUM_PADDING
    leaves, texts = torch.tensor(pairs, dtype=torch.int32).T
    truth = torch.from_numpy(rng.integers(-(2**31), 2**31, (len(pairs), 2)).astype(np.int32))
    shares = torch.from_numpy(rng.uniform(0.01, 0.1, len(pairs)).astype(np.float32))
    found = Shortlists(make_features(rng, width).to(dtype), leaves, texts, shares, truth)
    return Shortlists(*(tensor.contiguous().to(device) for tensor in vars(found).values()))


def make_all_rows(width, device, *, seed=1, dtype=torch.float32):
    """Texts with true labels: one row that all share, random rows, and rows of another rank; one text is padding."""
    rng = np.random.default_rng(seed)
    pairs = {(7, text) for text in range(NUM_TEXTS)}
    pairs |= set(zip(rng.integers(0, NUM_ROWS, 30).tolist(), rng.integers(0, NUM_TEXTS, 30).tolist(), strict=True))
    pairs |= {(NUM_ROWS, text) for text in range(5)}
    true_rows, true_texts = torch.tensor(sorted(pairs)).T.contiguous()
    shares = torch.full((NUM_TEXTS,), 0.02)
    shares[4] = 0
    found = AllRows(make_features(rng, width).to(dtype), true_rows, true_texts.contiguous(), shares)
    return AllRows(*(tensor.to(device) for tensor in vars(found).values()))


def update(kernels, rows, leaf_rows, candidates, schedule, *, is_finite=True, factor=FACTOR):
    device = rows.bias.device
    kernels.update(
        rows, leaf_rows, candidates, schedule, SCALE,
        factor=torch.tensor(factor, device=device), is_finite=torch.tensor(is_finite, device=device),
    )  # fmt: skip


def assert_near(found, expected, limit):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.isfinite().all()
    if expected.numel():
        assert (found - expected).abs().max() <= limit * expected.abs().max()


def assert_same_sums(found, expected, limit):
    assert_near(found[:, :-1], expected[:, :-1], limit)
    assert_near(found[:, -1], expected[:, -1], limit)


def assert_same_rows(found, expected, limit):
    for name, tensor in vars(expected).items():
        other = getattr(found, name)
        if name in {"last_step", "updates"}:
            assert torch.equal(other, tensor)
        elif name not in {"weight", "compensation", "scale"}:
            assert_near(other, tensor, limit)
    assert torch.equal(found.scale, expected.scale)
    weight, other = (rows.floats(slice(None)) for rows in (expected, found))
    if expected.compensation.shape[1]:
        weight, other = (rows.weight.float() + rows.compensation.float() for rows in (expected, found))
    if expected.weight.dtype == torch.float32 or expected.compensation.shape[1]:
        assert_near(other, weight, limit)
        return
    # Random rounding may go the other way where the two weights differ a little before it.
    is_fp8 = expected.weight.dtype == torch.uint8
    torch.testing.assert_close(other, weight, rtol=2**-3 if is_fp8 else 2**-7, atol=2**-9 if is_fp8 else 1e-5)
    assert (other == weight).float().mean() > 0.95


def bits_of(rows):
    return {name: tensor.clone() for name, tensor in vars(rows).items()}
