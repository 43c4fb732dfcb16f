"""Batches of short and long rows are computed in two parts, with less padding and the same features.

Oracles: the features and gradients of the whole batch, and a search over all numbers of short rows (hypothesis).
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.runs import make_encoder

from cxml.config import ModelConfig
from cxml.data import StepRule, length_parts, step_facts
from cxml.model import build_encoder


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_no_other_split_pads_less_and_each_row_is_in_the_part_that_holds_its_tokens(drawn):
    lengths, width, size = np.array(drawn), max(drawn), len(drawn)
    ascending = np.sort(lengths)
    padded = {k: k * -(-ascending[k - 1] // 8) * 8 + (size - k) * width for k in range(8, size, 8)}
    fewest = min(padded.values(), default=width * size)
    parts = length_parts(lengths, width)
    if parts is None:
        assert fewest > 0.8 * width * size
        return
    assert sum(len(part.rows) * part.width for part in parts) == fewest <= 0.8 * width * size
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(size))
    assert all(int(lengths[part.rows].max()) <= part.width <= width for part in parts)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_and_gradients_are_those_of_the_whole_batch(tmp_path, pooling):
    config = ModelConfig(
        encoder=make_encoder(tmp_path / "encoder"), pooling=pooling, taps=("0+1", "2"), dropouts=(0.0, 0.0),
        projection_dropout=0.0, shortlist_sizes=(4,), bottleneck=4,
    )  # fmt: skip
    encoder = build_encoder(config, 2)
    torch.manual_seed(0)
    lengths = torch.tensor([3, 40, 5, 2, 38, 4, 6, 3, 5, 7, 33])
    mask = (torch.arange(40) < lengths[:, None]).long()
    tokens = torch.randint(5, 100, mask.shape) * mask
    found = {}
    for splits in (False, True):
        encoder.splits_batches = splits
        encoder.zero_grad()
        features = encoder(tokens, mask)
        sum((level * torch.arange(11.0)[:, None]).square().mean() for level in features).backward()
        gradients = {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}
        found[splits] = features, gradients
    assert length_parts(lengths.numpy(), 40) is not None
    for whole, parts in zip(found[False][0], found[True][0], strict=True):
        torch.testing.assert_close(parts, whole)
    assert found[True][1].keys() == found[False][1].keys()
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_plan_counts_the_padding_that_two_parts_leave(parts):
    lengths = np.append(np.full(90, 4), np.full(60, 100))
    rule = StepRule(batch_size=50)
    whole, split = (
        step_facts(lengths, rule, seed=0, parts=parts, num_texts=150, splits_batches=splits) for splits in (False, True)
    )
    assert whole.mean_tokens == 5000  # each micro-batch has a long text
    assert split.mean_tokens < (2600 if parts == 1 else 4000)  # 60 % short rows, in multiples of 8
    assert split.padding == pytest.approx(1 - lengths.sum() / (3 * split.mean_tokens))
