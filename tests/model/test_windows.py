"""Features and gradients of texts that are cut into windows.

Oracle: an encoder that processes one window after the other, with means in plain PyTorch.
"""

import itertools

import numpy as np
import pytest
import torch
from support.runs import make_encoder

from cxml.config import ModelConfig
from cxml.data import Ragged, WindowRule, collate
from cxml.model.encoder import build_encoder

RULE = WindowRule(10, 1, 1)
LENGTHS = [31, 4, 10, 11, 70]
WINDOWS = 4 + 1 + 1 + 2 + 9
TAPS = ("1", "1+2")
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("windows") / "encoder")


def encoder_of(folder, pooling, bottleneck=0):
    torch.manual_seed(0)
    config = ModelConfig(encoder=folder, taps=TAPS, pooling=pooling, bottleneck=bottleneck, projection_dropout=0.0,
                         dropouts=(0.0, 0.0))  # fmt: skip
    return build_encoder(config, num_levels=len(TAPS)).train()


def texts():
    rng = np.random.default_rng(0)
    return [[CLS, *rng.integers(1000, 30000, length - 2).tolist(), SEP] for length in LENGTHS]


def batch_of(rows, rule, **options):
    none = Ragged(np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64))
    return collate(Ragged.from_lists(rows), none, pad_id=0, global_size=len(rows), rule=rule, **options)


def windows_of(text):
    """The windows of a text, cut by hand: as few as hold its tokens, of nearly equal lengths."""
    if len(text) <= RULE.size:
        return [text]
    own = text[1:-1]
    count = -(-len(own) // (RULE.size - 2))
    bounds = [len(own) * number // count for number in range(count + 1)]
    return [[CLS, *own[start:stop], SEP] for start, stop in itertools.pairwise(bounds)]


def slow_features(encoder, text):
    """Features of one text: its windows one by one, means over the tokens of all, in plain PyTorch."""
    by_layer = {}
    for window in windows_of(text):
        ids = torch.tensor([window])
        states = encoder.transformer(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
        for layer in (1, 2):
            by_layer.setdefault(layer, []).append(states[layer][0])
    pooled = {}
    for layer, states in by_layer.items():
        tokens = torch.cat(states) if encoder.pooling == "mean" else torch.stack([each[0] for each in states])
        pooled[layer] = tokens.mean(0)
    return pooled[1], encoder.projections[1](torch.cat([pooled[1], pooled[2]]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("pads", [False, True])
def test_features_and_gradients_are_those_of_windows_seen_one_by_one(folder, pooling, pads):
    rule = WindowRule(RULE.size, 1, 1, pads)
    encoder, slow = encoder_of(folder, pooling), encoder_of(folder, pooling)
    batch = batch_of(texts(), rule)
    assert batch.windows is not None
    assert (batch.windows.counts.sum(), len(batch.input_ids)) == (WINDOWS, WINDOWS + pads)
    found = encoder(batch.input_ids, batch.attention_mask, batch.windows)
    expected = [torch.stack(level) for level in zip(*(slow_features(slow, text) for text in texts()), strict=True)]
    weights = [torch.randn(level.shape, generator=torch.Generator().manual_seed(1)) for level in expected]
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)
    torch.stack([(own * weight).sum() for own, weight in zip(found, weights, strict=True)]).sum().backward()
    torch.stack([(own * weight).sum() for own, weight in zip(expected, weights, strict=True)]).sum().backward()
    for (name, own), wanted in zip(encoder.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_window_is_the_whole_text_bit_for_bit(folder, pooling, dtype):
    encoder = encoder_of(folder, pooling).to(dtype)
    short = [text for text in texts() if len(text) <= RULE.size]
    whole, windowed = batch_of(short, None), batch_of(short, RULE)
    pairs = zip(
        encoder(whole.input_ids, whole.attention_mask),
        encoder(windowed.input_ids, windowed.attention_mask, windowed.windows), strict=True,
    )  # fmt: skip
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beside_a_long_text_one_window_is_pooled_as_a_whole_text(folder, pooling, dtype):
    encoder = encoder_of(folder, pooling)
    batch = batch_of(texts(), RULE)
    states = torch.randn(*batch.input_ids.shape, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = encoder._pool(states, batch.attention_mask, batch.windows)
    alone = encoder._pool(states, batch.attention_mask)
    starts = np.concatenate([[0], np.cumsum(batch.windows.counts)])  # pyright: ignore[reportOptionalMemberAccess]
    for text, length in enumerate(LENGTHS):
        if length <= RULE.size:
            assert torch.equal(found[text], alone[starts[text]])
    assert found.dtype == dtype


def test_a_window_that_is_no_number_spoils_no_other_text(folder):
    encoder = encoder_of(folder, "mean")
    batch = batch_of(texts(), RULE)
    states = torch.ones(*batch.input_ids.shape, 32)
    states[0] = float("nan")
    found = encoder._pool(states, batch.attention_mask, batch.windows)
    assert found[0].isnan().all()
    assert (found[1:] == 1).all()


def test_recomputed_activations_give_the_same_gradients(folder):
    plain, lean = encoder_of(folder, "mean", bottleneck=8), encoder_of(folder, "mean", bottleneck=8)
    lean.recompute_activations()
    batch = batch_of(texts(), RULE)
    for encoder in (plain, lean):
        levels = encoder(batch.input_ids, batch.attention_mask, batch.windows)
        torch.stack([level.square().sum() for level in levels]).sum().backward()
    assert levels[-1].shape == (len(LENGTHS), 8)
    for (name, own), other in zip(lean.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, msg=name)
