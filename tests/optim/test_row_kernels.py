"""The kernels of a sharded level equal plain PyTorch, at the widths of real encoders.

Triton runs on a GPU where there is one, otherwise in its interpreter. Tolerances are relative to the largest number of
an array. For float32 rows they are 1e-5 on the CPU, which multiplies in float32, and 2^-8 on a GPU, which rounds
factors to tf32. For bfloat16 rows they are 2^-6: kernels may round features and slopes to bfloat16. Oracle: the kernels
written in plain PyTorch.
"""

import importlib
from dataclasses import dataclass, replace

import pytest
import torch
from support.row_problems import (
    FORMATS,
    LEAF_SIZES,
    NUM_ROWS,
    NUM_TEXTS,
    SCALE,
    WIDTHS,
    assert_near,
    assert_same_rows,
    assert_same_sums,
    bits_of,
    make_all_rows,
    make_leaf_rows,
    make_rows,
    make_shortlists,
    tolerance,
    update,
)  # fmt: skip
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cxml.accelerators import device_of
from cxml.model.ranking import NO_KEY, scores_of
from cxml.optim import RowSchedule, RowState, RowTensors
from cxml.optim.torch_kernels import TorchAllRowsKernels, TorchShortlistKernels

# Module and classes of each kind, and where it runs.
KINDS = {
    "triton": ("cxml.optim.triton_kernels", "TritonShortlistKernels", "TritonAllRowsKernels", device_of(0)),
}
NEEDS = {"triton": "triton"}
# Every format at one width. Another width is another number of the same blocks, so there a run of the suite has two.
UPDATES = [
    pytest.param(width, form, marks=[] if width == 768 or form in ("fp32", "fp8, SGD, clipped") else pytest.mark.slow)
    for width in WIDTHS
    for form in FORMATS
]


@dataclass(frozen=True)
class Kind:
    """Kernels of both candidates and where they run."""

    shortlists: object
    all_rows: object
    device: torch.device


@pytest.fixture(params=KINDS)
def kind(request):
    return make_kind(request.param)


def make_kind(name, **options):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module, shortlists, all_rows, device = KINDS[name]
    module = importlib.import_module(module)
    return Kind(getattr(module, shortlists)(**options), getattr(module, all_rows)(**options), device)


def cases(kind):
    """Kernels, their reference and what makes their candidates."""
    return [
        (kind.shortlists, TorchShortlistKernels(), make_shortlists),
        (kind.all_rows, TorchAllRowsKernels(), make_all_rows),
    ]


@pytest.mark.parametrize("form", ["fp32", "bf16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_losses_and_squares_are_those_of_plain_torch_and_leave_the_rows_alone(kind, width, form):
    rows, schedule = make_rows(width, form, kind.device)
    leaf_rows, before = make_leaf_rows(kind.device), bits_of(rows)
    limit = tolerance(FORMATS[form][0], kind.device)
    for kernels, reference, make in cases(kind):
        candidates = make(width, kind.device)
        found = kernels.loss(rows, leaf_rows, candidates, schedule)
        assert_same_sums(found, reference.loss(rows, leaf_rows, candidates, schedule), limit)
        found = kernels.squares(rows, leaf_rows, candidates, schedule, SCALE)
        assert_near(found, reference.squares(rows, leaf_rows, candidates, schedule, SCALE), limit)
    for name, tensor in vars(rows).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("width", "form"), UPDATES)
def test_an_update_leaves_the_rows_that_plain_torch_leaves(kind, width, form):
    leaf_rows = make_leaf_rows(kind.device)
    for kernels, reference, make in cases(kind):
        (found, schedule), (expected, _) = (make_rows(width, form, kind.device) for _ in range(2))
        candidates = make(width, kind.device)
        update(kernels, found, leaf_rows, candidates, schedule)
        update(reference, expected, leaf_rows, candidates, schedule)
        assert_same_rows(found, expected, tolerance(FORMATS[form][0], kind.device))


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_bfloat16_features_give_the_sums_and_rows_of_plain_torch(kind, form):
    leaf_rows, limit = make_leaf_rows(kind.device), tolerance(form, kind.device)
    for kernels, reference, make in cases(kind):
        (found, schedule), (expected, _) = (make_rows(384, form, kind.device) for _ in range(2))
        candidates = make(384, kind.device, dtype=torch.bfloat16)
        sums = kernels.loss(found, leaf_rows, candidates, schedule)
        assert_same_sums(sums, reference.loss(expected, leaf_rows, candidates, schedule), limit)
        update(kernels, found, leaf_rows, candidates, schedule)
        update(reference, expected, leaf_rows, candidates, schedule)
        assert_same_rows(found, expected, limit)


@pytest.mark.parametrize("form", ["fp32", "bf16", "bf16 with compensation, SGD, clipped"])
def test_an_unsound_step_changes_no_bit(kind, form):
    rows, schedule = make_rows(384, form, kind.device)
    before = bits_of(rows)
    for kernels, _, make in cases(kind):
        update(
            kernels, rows, make_leaf_rows(kind.device), make(384, kind.device), schedule, is_finite=False, factor=0.0
        )
    for name, tensor in vars(rows).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("width", WIDTHS)
def test_rounding_at_random_has_the_noise_of_a_rows_position(kind, width):
    """Without a gradient all kernels round the same numbers, so not a bit may differ."""
    leaf_rows = make_leaf_rows(kind.device)
    for kernels, reference, make in cases(kind):
        (found, schedule), (expected, _) = (make_rows(width, "bf16, SGD", kind.device) for _ in range(2))
        for own, rows in ((kernels, found), (reference, expected)):
            update(own, rows, leaf_rows, make(width, kind.device), schedule, factor=0.0)
        assert torch.equal(found.weight, expected.weight)


def test_rows_that_no_text_wants_keep_their_bits(kind):
    rows, schedule = make_rows(384, "fp32", kind.device)
    before = bits_of(rows)
    update(kind.shortlists, rows, make_leaf_rows(kind.device), make_shortlists(384, kind.device), schedule)
    for name, tensor in vars(rows).items():
        assert torch.equal(tensor[-LEAF_SIZES[-1] :], before[name][-LEAF_SIZES[-1] :])


def test_joined_batches_are_updated_as_in_plain_torch(kind):
    leaf_rows, limit = make_leaf_rows(kind.device), tolerance("fp32", kind.device)
    for kernels, reference, make in cases(kind):
        (found, schedule), (expected, _) = (make_rows(384, "fp32", kind.device) for _ in range(2))
        parts = [make(384, kind.device, seed=seed) for seed in (1, 2)]
        candidates = type(parts[0]).join(parts)
        sums = kernels.loss(found, leaf_rows, candidates, schedule)
        assert_same_sums(sums, torch.cat([reference.loss(found, leaf_rows, part, schedule) for part in parts]), limit)
        update(kernels, found, leaf_rows, candidates, schedule)
        update(reference, expected, leaf_rows, candidates, schedule)
        assert_same_rows(found, expected, limit)


def test_the_first_step_starts_from_zero_moments(kind):
    for kernels, reference, make in cases(kind):
        both = []
        for own in (kernels, reference):
            state = RowState.zeros(NUM_ROWS, 384, optimizer="adamw", weights="fp32", second_moment="full")
            rows = RowTensors.of(state, kind.device)
            schedule = RowSchedule(
                decay=0.01, beta2=0.999, epsilon=1e-8,
                log_decay=torch.zeros(4, dtype=torch.float64, device=kind.device),
            )  # fmt: skip
            schedule.begin_step(1e-3, 0.9)
            update(own, rows, make_leaf_rows(kind.device), make(384, kind.device), schedule)
            both.append(rows)
        assert_near(both[0].weight, both[1].weight, 1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["fp32", "bf16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_best_rows_of_shortlists_are_those_of_plain_torch(kind, width, form, weighted):
    rows, schedule = make_rows(width, form, kind.device)
    leaf_rows, candidates = make_leaf_rows(kind.device), make_shortlists(width, kind.device)
    parents = torch.linspace(-3, 3, len(candidates.leaves), device=kind.device) if weighted else None
    arguments = (rows, leaf_rows, candidates, schedule, 50, parents)
    (keys, positions), expected = kind.shortlists.best(*arguments), TorchShortlistKernels().best(*arguments)
    assert torch.equal(positions, expected[1])
    assert torch.equal(keys == NO_KEY, expected[0] == NO_KEY)
    torch.testing.assert_close(scores_of(keys), scores_of(expected[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [2**24, 64 * NUM_TEXTS, 1])
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_best_of_all_rows_are_those_of_plain_torch(kind, form, chunk, monkeypatch):
    module = importlib.import_module(type(kind.all_rows).__module__)
    monkeypatch.setattr(module, "_KEYS_AT_ONCE", chunk, raising=False)
    rows, schedule = make_rows(384, form, kind.device)
    for k in (5, NUM_ROWS + 3):
        arguments = (rows, make_leaf_rows(kind.device), make_all_rows(384, kind.device), schedule, k)
        (keys, positions), expected = kind.all_rows.best(*arguments), TorchAllRowsKernels().best(*arguments)
        assert torch.equal(positions, expected[1])
        assert torch.equal(keys == NO_KEY, expected[0] == NO_KEY)
        torch.testing.assert_close(scores_of(keys), scores_of(expected[0]), rtol=1e-5, atol=1e-5)


def test_of_equal_keys_the_lower_position_comes_first(kind):
    rows, schedule = make_rows(384, "fp32", kind.device)
    rows.weight.zero_()
    rows.bias.fill_(-0.0)
    rows.bias[10:20] = 0.0
    for kernels, reference, make in cases(kind):
        arguments = (rows, make_leaf_rows(kind.device), make(384, kind.device), schedule, 45)
        for found, expected in zip(kernels.best(*arguments), reference.best(*arguments), strict=True):
            assert torch.equal(found, expected)


def test_without_candidates_sums_are_zero_and_the_rows_stay(kind):
    rows, schedule = make_rows(384, "fp32", kind.device)
    leaf_rows, before = make_leaf_rows(kind.device), bits_of(rows)
    only_padding = make_shortlists(384, kind.device, wants={})
    none = replace(
        only_padding, features=only_padding.features[:0],
        **{name: getattr(only_padding, name)[:0] for name in ("leaves", "texts", "shares", "truth")},
    )  # fmt: skip
    for candidates in (only_padding, none):
        num_texts = len(candidates.features)
        sums = kind.shortlists.loss(rows, leaf_rows, candidates, schedule)
        assert torch.equal(sums, torch.zeros(num_texts, 385, device=kind.device))
        assert kind.shortlists.squares(rows, leaf_rows, candidates, schedule, SCALE) == 0
        update(kind.shortlists, rows, leaf_rows, candidates, schedule)
        keys, positions = kind.shortlists.best(rows, leaf_rows, candidates, schedule, 2)
        assert torch.equal(keys, torch.full((num_texts, 2), NO_KEY, device=kind.device))
        assert torch.equal(positions, torch.full((num_texts, 2), -1, device=kind.device))
    for name, tensor in vars(rows).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", ["triton"])
def test_deterministic_sums_are_the_same_in_every_run_and_those_of_plain_torch(name):
    kind = make_kind(name, deterministic=True)
    rows, schedule = make_rows(384, "fp32", kind.device)
    for kernels, reference, make in cases(kind):
        arguments = (rows, make_leaf_rows(kind.device), make(384, kind.device), schedule)
        first, second = kernels.loss(*arguments), kernels.loss(*arguments)
        assert torch.equal(first, second)
        assert_same_sums(first, reference.loss(*arguments), tolerance("fp32", kind.device))


@pytest.fixture
def without_triton(monkeypatch):
    """The operators as they run on the CPU where Triton has no interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr("cxml.triton_operators.runs_kernels", lambda _: False)
    module, *classes, _ = KINDS["triton"]
    monkeypatch.setitem(KINDS, "triton", (module, *classes, torch.device("cpu")))


@pytest.mark.parametrize("deterministic", [False, True])
def test_operators_without_triton_are_plain_torch(without_triton, deterministic):
    kind = make_kind("triton", deterministic=deterministic)
    test_losses_and_squares_are_those_of_plain_torch_and_leave_the_rows_alone(kind, 384, "fp32")
    for form in FORMATS:
        test_an_update_leaves_the_rows_that_plain_torch_leaves(kind, 384, form)
    test_of_equal_keys_the_lower_position_comes_first(kind)
    test_best_rows_of_shortlists_are_those_of_plain_torch(kind, 384, "bf16", weighted=True)
    test_without_candidates_sums_are_zero_and_the_rows_stay(kind)


@pytest.mark.parametrize("form", ["fp32", "bf16, one second moment per row, clipped"])
def test_triton_with_the_block_sizes_of_a_gpu_equals_plain_torch(form, monkeypatch):
    """In the interpreter blocks are wider elsewhere, to save time."""
    kind = make_kind("triton")
    monkeypatch.setattr("cxml.triton_operators.IS_COMPILED", True)
    monkeypatch.setattr("cxml.triton_operators.runs_kernels", lambda _: True)
    test_losses_and_squares_are_those_of_plain_torch_and_leave_the_rows_alone(kind, 384, form)
    test_an_update_leaves_the_rows_that_plain_torch_leaves(kind, 384, form)


class Operators(TorchDispatchMode):
    """Notes the names of operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def own(self):
        return [name.split(".")[1] for name in self.names if name.startswith("cxml.")]


CALLS = {
    "loss": lambda kernels, arguments, _: kernels.loss(*arguments),
    "squares": lambda kernels, arguments, _: kernels.squares(*arguments, SCALE),
    "update": lambda kernels, arguments, signs: kernels.update(*arguments, SCALE, **signs),
    "best": lambda kernels, arguments, _: kernels.best(*arguments, 5),
}
WAITING = ("_local_scalar_dense", "nonzero", "unique", "item")


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_launches_one_kernel_and_asks_the_host_for_nothing(call, deterministic):
    """On tensors without data, where a number that the host asks for would be an error."""
    kind = make_kind("triton", deterministic=deterministic)
    expected = {
        "shortlist": {"loss": ["shortlist_loss"] + ["segment_sum"] * deterministic, "best": ["shortlist_scores"]},
        "all_rows": {"best": ["all_rows_keys"]},
    }
    device = torch.device("cpu")
    for (kernels, _, make), name in zip(cases(kind), expected, strict=True):
        real = (*make_rows(384, "bf16", device)[:1], make_leaf_rows(device), make(384, device))
        schedule = make_rows(384, "bf16", device)[1]
        with FakeTensorMode() as mode:
            rows, leaf_rows, candidates = (
                type(value)(**{
                    key: mode.from_tensor(item) if isinstance(item, torch.Tensor) else item
                    for key, item in vars(value).items()
                })
                for value in real
            )  # fmt: skip
            schedule = replace(schedule, log_decay=mode.from_tensor(schedule.log_decay))
            signs = {"factor": torch.ones(()), "is_finite": torch.ones((), dtype=torch.bool)}
            with Operators() as operators:
                CALLS[call](kernels, (rows, leaf_rows, candidates, schedule), signs)
        assert operators.own() == expected[name].get(call, [f"{name}_{call}"])
        assert not [found for found in operators.names if any(word in found for word in WAITING)]
