"""The operations of a training step, and the utilisation that follows from them.

Oracles: PyTorch's `FlopCounterMode`, and the peaks that NVIDIA publishes.
"""

import dataclasses

import numpy as np
import pytest
import torch
from support.runs import make_encoder, small_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from cxml import accelerators
from cxml.model import build_model
from cxml.training.flops import StepFlops, step_flops, utilisation
from cxml.tree import LabelTree, plan_splits

TEXTS, TOKENS, LABELS = 6, 9, 64


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("flops") / "encoder")


def config_of(folder, encoder, **model):
    settings = {"taps": ("1+2", "2"), "shortlist_sizes": (3,), "dropouts": (), **model}
    return small_config(folder, encoder, tree={"level_sizes": (8,)}, model=settings)


@pytest.mark.parametrize(("frozen", "bottleneck"), [(0, 0), (1, 0), (0, 8)])
def test_operations_of_the_encoder_are_those_that_pytorch_counts(tmp_path, encoder, frozen, bottleneck):
    config = config_of(tmp_path, encoder, freeze_layers=frozen, bottleneck=bottleneck)
    tree = LabelTree(np.arange(LABELS, dtype=np.int32), plan_splits(LABELS, (8,)).offsets)
    architecture = AutoConfig.from_pretrained(encoder, attn_implementation="eager")  # products that it can count
    model = build_model(config.model, tree, architecture)
    tokens = torch.randint(5, 20, (TEXTS, TOKENS))
    with FlopCounterMode(display=False) as counter:
        torch.stack([each.sum() for each in model.encoder(tokens, torch.ones_like(tokens))]).sum().backward()
    found = step_flops(model, config)
    clusters, labels = model.encoder.feature_sizes
    heads = 6 * (clusters * 8 + labels * 3 * LABELS / 8)  # all clusters, and the labels of three
    without_heads = StepFlops(found.per_token, found.per_pair, found.per_text - heads)
    lengths = np.full(TEXTS, TOKENS)
    # No gradient goes into the tokens themselves: the first trained layer's queries, keys and values take a third less.
    untaken = 2 * TEXTS * TOKENS * 3 * model.encoder.hidden_size**2 if frozen else 0
    assert counter.get_total_flops() == pytest.approx(without_heads.of(lengths, TEXTS) - untaken, rel=1e-6)


def test_utilisation_is_told_where_the_peak_is_known_and_in_bf16_alone(tmp_path, encoder, monkeypatch):
    config = config_of(tmp_path, encoder)
    bf16 = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16"))
    tree = LabelTree(np.arange(LABELS, dtype=np.int32), plan_splits(LABELS, (8,)).offsets)
    model = build_model(bf16.model, tree, AutoConfig.from_pretrained(encoder))
    assert utilisation(model, bf16, torch.device("cpu")) is None
    monkeypatch.setattr(accelerators, "device_name", lambda _: "NVIDIA H100 PCIe")
    found = utilisation(model, bf16, torch.device("cpu"))
    assert found is not None
    assert found.peak == 756e12
    assert utilisation(model, config, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA A10G", None), ("NVIDIA A10", 125e12), ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("CPU", None),
        ("NVIDIA GH200 480GB", 990e12),
    ],
)  # fmt: skip
def test_peaks_go_by_the_whole_name_of_a_device(monkeypatch, name, peak):
    monkeypatch.setattr(accelerators, "device_name", lambda _: name)
    assert accelerators.peak_flops(torch.device("cpu")) == peak
