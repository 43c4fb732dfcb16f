"""A compiled encoder trains and predicts as the plain one, with few compiled graphs and unchanged weight names.

Oracles: the same encoder without the compiler, and PyTorch's counter of graphs.
"""

import copy
import os
import subprocess
import sys

import pytest
import torch
from support.runs import make_encoder
from torch._dynamo.utils import counters

from cxml.config import ModelConfig
from cxml.data import padded_lengths
from cxml.model import build_encoder

CPU = torch.device("cpu")
WITHOUT_COMPILER = """
import torch
from torch import nn
from cxml.model.compilation import compile_layers
compile_layers([nn.Linear(2, 2)], torch.device("cpu"))
"""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """An encoder without dropout as it is, and compiled."""
    torch.compiler.reset()
    config = ModelConfig(
        encoder=make_encoder(tmp_path_factory.mktemp("encoder")), taps=("0", "1"), projection_dropout=0.0,
        dropouts=(0.0, 0.0),
    )  # fmt: skip
    plain = build_encoder(config, num_levels=2)
    compiled = copy.deepcopy(plain)
    compiled.compile_layers(CPU, recompute=False)
    return plain.train(), compiled.train()


def trained(encoder, texts, length):
    """Features of both levels, and the gradients of all weights."""
    generator = torch.Generator().manual_seed(texts)
    ids = torch.randint(1000, 2000, (texts, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    encoder.zero_grad()
    features = encoder(ids, mask)
    sum(feature.sin().sum() for feature in features).backward()
    return [*features, *(p.grad for p in encoder.parameters() if p.grad is not None)]


def test_any_number_of_texts_of_a_length_trains_as_without_the_compiler_by_the_same_code(encoders):
    plain, compiled = encoders
    for length in padded_lengths(32):
        graphs = set()
        for texts in (8, 5, 13, 2):
            found, expected = trained(compiled, texts, length), trained(plain, texts, length)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            graphs.add(counters["stats"]["unique_graphs"])
        assert len(graphs) == 1
    before = counters["stats"]["unique_graphs"]
    for length in padded_lengths(32):
        trained(compiled, 3, length)
    assert counters["stats"]["unique_graphs"] == before > 0


def test_prediction_compiles_nothing_whatever_the_length(encoders):
    plain, compiled = encoders
    before = dict(counters["stats"])
    ids = torch.randint(1000, 2000, (3, 11))
    with torch.inference_mode():
        found, expected = (encoder.eval()(ids, torch.ones_like(ids)) for encoder in (compiled, plain))
    for encoder in encoders:
        encoder.train()
    assert dict(counters["stats"]) == before
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_names_of_weights_stay(encoders):
    plain, compiled = encoders
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("max_length", [1, 7, 8, 32, 100, 128, 510, 512])
def test_batches_are_padded_to_four_lengths_at_most_of_which_the_longest_is_the_limit(max_length):
    lengths = padded_lengths(max_length)
    assert len(lengths) <= 4
    assert list(lengths) == sorted(set(lengths))
    assert lengths[-1] == max_length
    steps = [b - a for a, b in zip((0, *lengths), lengths, strict=False)]
    assert max(steps) <= max_length / 4 + 8


def test_where_nothing_can_be_compiled_the_field_and_the_remedy_are_named(tmp_path):
    environment = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("cxml.errors.ConfigError: train.compile = True: torch.compile fails on this machine")
    assert "g++, or set train.compile to false" in error
