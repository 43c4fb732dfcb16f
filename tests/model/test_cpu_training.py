"""Attention and dropout for training on CPUs are those of PyTorch, whatever texts are computed together.

Oracles: PyTorch's `scaled_dot_product_attention` in float64, the formula of attention with the dropped weights written
out, and finite differences.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.runs import make_encoder

from cxml.config import ModelConfig
from cxml.model import build_encoder, cpu_attention
from cxml.model import encoder as encoder_module
from cxml.model.cpu_attention import BatchedAttention, CpuTraining
from cxml.model.cpu_dropout import Dropout, random_keys, zero_some

TEXTS, HEADS, WIDTH = 5, 3, 8


def inputs(length, dtype=torch.float64, texts=TEXTS):
    """Query, key and value as views of [B, T, H, D], as encoders pass them, and the gradient of the output."""
    generator = torch.Generator().manual_seed(length)
    shape = (texts, length, HEADS, WIDTH)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]
    *tensors, slope = (each.transpose(1, 2) for each in drawn)
    return [each.requires_grad_() for each in tensors], slope


def masks(length):
    visible = torch.ones(TEXTS, 1, 1, length, dtype=torch.bool)
    visible[1, ..., length // 2 + 1 :] = False
    visible[3, ..., 1:] = False
    window = (torch.arange(length)[:, None] - torch.arange(length)).abs() < 3
    return {
        "none": None, "keys": visible, "every query": visible.expand(-1, 1, length, -1), "of all texts": window,
        "numbers": torch.randn(TEXTS, HEADS, length, length, generator=torch.Generator().manual_seed(1)).double(),
    }  # fmt: skip


def gradients(function, tensors, slope):
    out = function(*tensors)
    return [out, *torch.autograd.grad(out, tensors, slope)]


@pytest.fixture(params=[1, 2, HEADS, 2 * HEADS, 1000], ids=lambda pairs: f"{pairs} at a time")
def pairs_at_a_time(request, monkeypatch):
    """Sets how many pairs of a text and a head are computed together."""

    def choose(length, itemsize):
        each = length**2 * itemsize // torch.get_num_threads()
        monkeypatch.setattr(cpu_attention, "_CACHED_BYTES", request.param * each + each // 2 + 1)

    return choose


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("mask", masks(4))
@pytest.mark.parametrize("length", [1, 7, 33])
def test_outputs_and_gradients_are_those_of_pytorch(length, mask, scale, pairs_at_a_time):
    pairs_at_a_time(length, 8)
    tensors, slope = inputs(length)
    shown = masks(length)[mask]
    expected = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, shown, scale=scale), tensors, slope)
    found = gradients(lambda q, k, v: BatchedAttention.apply(q, k, v, shown, 0.0, scale), tensors, slope)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("length", [8, 40])
def test_bf16_is_as_exact_as_pytorchs_bf16(length):
    wide, slope = inputs(length)
    shown = masks(length)["keys"]
    exact = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, shown), wide, slope)
    tensors = [each.detach().bfloat16().requires_grad_() for each in wide]
    plain = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, shown), tensors, slope.bfloat16())
    found = gradients(lambda q, k, v: BatchedAttention.apply(q, k, v, shown, 0.0, None), tensors, slope.bfloat16())
    for ours, theirs, right in zip(found, plain, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - right).norm() <= 1.25 * (theirs - right).norm()


def test_dropped_weights_are_zero_and_the_others_larger(pairs_at_a_time):
    """The places of the dropped weights follow from the random keys, one per part."""
    length, rate = 6, 0.3
    pairs_at_a_time(length, 8)
    (query, key, value), slope = inputs(length)
    parts = cpu_attention._parts(query, None, 0.0, None)
    torch.manual_seed(3)
    keys = random_keys(len(parts))
    kept = torch.ones(TEXTS, HEADS, length, length)
    for part, each in zip(parts, keys, strict=True):
        kept[part.place] = zero_some(torch.ones_like(kept[part.place]), rate, each)

    def formula(q, k, v):
        return (torch.softmax(q @ k.transpose(-1, -2) / WIDTH**0.5, -1) * kept / (1 - rate)) @ v

    torch.manual_seed(3)
    found = gradients(lambda *each: BatchedAttention.apply(*each, None, rate, None), [query, key, value], slope)
    torch.testing.assert_close(found, gradients(formula, [query, key, value], slope))


def test_gradients_with_dropout_are_finite_differences(pairs_at_a_time):
    pairs_at_a_time(4, 8)
    tensors, _ = inputs(4, texts=3)

    def seeded(*each):
        torch.manual_seed(0)
        return Dropout.apply(BatchedAttention.apply(*each, masks(4)["keys"][1:4], 0.4, None), 0.2)

    assert torch.autograd.gradcheck(seeded, tensors)


def test_a_query_without_a_visible_key_has_finite_outputs_and_gradients():
    tensors, slope = inputs(5, torch.float32)
    shown = torch.ones(TEXTS, 1, 5, 5, dtype=torch.bool)
    shown[2, :, 3] = False
    for mask in (shown, torch.zeros(shown.shape).masked_fill(~shown, float("-inf"))):
        found = gradients(lambda q, k, v, mask=mask: BatchedAttention.apply(q, k, v, mask, 0.1, None), tensors, slope)
        assert all(each.isfinite().all() for each in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_elements_are_dropped_with_the_rate_and_independently(dtype, rate):
    count = 1 << 20
    bound = 5 * (rate * (1 - rate) / count) ** 0.5  # five standard deviations
    first, second = (zero_some(torch.ones(count, dtype=dtype), rate, key) == 0 for key in random_keys(2))
    for dropped in (first, second):
        assert abs(dropped.double().mean() - rate) < bound
        blocks = dropped.view(-1, 1024).double().mean(1)
        assert blocks.var() == pytest.approx(rate * (1 - rate) / 1024, rel=0.25)
    pairs = [(first, second), *((first, first.roll(shift)) for shift in (1, 2, 12, 64, 384, 1 << 14))]
    for one, other in pairs:
        assert abs((one & other).double().mean() - rate**2) < bound


def test_dropout_zeroes_the_same_elements_in_both_passes_and_keeps_the_mean():
    values = torch.full((40, 50), 3.0, requires_grad=True)
    out = Dropout.apply(values.t(), 0.25)
    out.sum().backward()
    assert set(out.unique().tolist()) == {0.0, 4.0}
    torch.testing.assert_close(values.grad, out.detach().t() / 3)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """An encoder without dropout, and one with dropout in attention and layers only."""
    found = []
    for dropout in (0.0, 0.2):
        model = make_encoder(tmp_path_factory.mktemp("encoder"), dropout=dropout)
        config = ModelConfig(encoder=model, taps=("1",), projection_dropout=0.0, dropouts=(0.0,))
        found.append(build_encoder(config, num_levels=1).train())
    return found


def trained(encoder, dtype, *, seed=0):
    """The features, and the gradients of all weights, for texts of several lengths."""
    encoder = copy.deepcopy(encoder).to(dtype)
    ids = torch.randint(1000, 2000, (6, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, length in enumerate((40, 3, 17, 40, 1, 33)):
        mask[row, length:] = 0
    torch.manual_seed(seed)
    (feature,) = encoder(ids, mask)
    feature.sin().sum().backward()
    return [feature.float(), *(each.grad.float() for each in encoder.parameters() if each.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_without_dropout_trains_as_in_pytorch(encoders, dtype, monkeypatch):
    found = trained(encoders[0], dtype)
    monkeypatch.setattr(encoder_module, "CpuTraining", nullcontext)
    expected = trained(encoders[0], dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    ours, theirs = (torch.cat([each.flatten() for each in values]) for values in (found, expected))
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_the_seed_of_pytorch_determines_the_dropped_elements(encoders):
    first, again, other = (trained(encoders[1], torch.float32, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_recomputed_activations_drop_the_same_elements(encoders):
    lean = copy.deepcopy(encoders[1])
    lean.recompute_activations()
    for found, expected in zip(trained(lean, torch.float32), trained(encoders[1], torch.float32), strict=True):
        torch.testing.assert_close(found, expected)


def test_evaluation_is_without_dropout_and_uses_pytorchs_attention(encoders):
    encoder = copy.deepcopy(encoders[1]).eval()
    ids = torch.randint(1000, 2000, (3, 9))
    with torch.no_grad():
        expected = encoder(ids, torch.ones_like(ids))[0]
    torch.testing.assert_close(encoder(ids, torch.ones_like(ids))[0], expected, rtol=1e-4, atol=1e-5)


def test_other_forms_of_attention_and_dropout_are_pytorchs():
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 9, 8)
    bias = torch.randn(6, 6, requires_grad=True)
    with CpuTraining():
        causal = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        grouped = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        F.scaled_dot_product_attention(query, query, query, bias).sum().backward()
        assert (F.dropout(torch.ones(9), 1.0) == 0).all()
        assert (F.dropout(torch.ones(9), 0.5, training=False) == 1).all()
    torch.testing.assert_close(causal, F.scaled_dot_product_attention(query, query, query, is_causal=True))
    torch.testing.assert_close(grouped, F.scaled_dot_product_attention(query, key, key, enable_gqa=True))
    assert bias.grad is not None
