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
