"""Features of the encoder: joined layers start as the mean of single ones, and mean pooling counts every token.

Oracles: the features of the single layers, and states of ones.
"""

import pytest
import torch
from support.runs import make_encoder

from cxml.config import ModelConfig
from cxml.model import build_encoder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_level_that_joins_layers_begins_as_the_mean_of_the_levels_that_read_one_each(tmp_path, pooling):
    config = ModelConfig(encoder=make_encoder(tmp_path), taps=("0", "1", "0+1"), pooling=pooling)
    encoder = build_encoder(config, num_levels=3).eval()
    ids = torch.randint(1000, 2000, (4, 7))
    mask = torch.ones_like(ids)
    mask[2, 4:] = 0
    lower, upper, joined = encoder(ids, mask)
    torch.testing.assert_close(joined, (lower + upper) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 256, 257, 511])
def test_the_mean_over_tokens_counts_them_all(tmp_path, dtype, tokens):
    config = ModelConfig(encoder=make_encoder(tmp_path), taps=("1",), pooling="mean")
    encoder = build_encoder(config, num_levels=1)
    states = torch.ones(2, 512, 32, dtype=dtype)
    mask = (torch.arange(512) < tokens).long().expand(2, 512)
    assert (encoder._pool(states, mask) == 1).all()
    assert encoder._pool(states, mask).dtype == dtype
