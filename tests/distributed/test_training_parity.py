"""However a step is spread over processes, ZeRO stages and micro-batches, it is the same step."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from support.runs import make_encoder, read_losses, small_config

from cxml.config import TrainConfig
from cxml.pipeline import run


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One process, whole batches: the run that the others must equal."""
    folder = tmp_path_factory.mktemp("parity")
    config = small_config(folder / "reference", make_encoder(folder / "encoder"))
    run(config)
    return config


def train_variant(reference, tmp_path, **train):
    """Train on the reference's data and tree with other `train` settings; losses of each step, and final weights."""
    config = dataclasses.replace(
        reference,
        output=str(tmp_path / "variant"),
        data=dataclasses.replace(reference.data, directory=f"{reference.output}/data"),
        tree=dataclasses.replace(reference.tree, directory=f"{reference.output}/tree"),
        train=dataclasses.replace(reference.train, **train),
    )
    run(config)
    return results(config)


def results(config):
    from pathlib import Path

    output = Path(config.output)
    weights = safetensors.torch.load_file(output / "model" / "weights.safetensors")
    return np.array(read_losses(output)), weights


@pytest.mark.parametrize(
    "train",
    [
        {"num_workers": 2},
        {"num_workers": 2, "zero_stage": 1},
        {"num_workers": 2, "zero_stage": 2},
        {"num_workers": 2, "zero_stage": 3},
        {"num_workers": 2, "accumulation": 2},
        {"accumulation": 4},
        {"activation_checkpointing": True},
    ],
    ids=lambda train: " ".join(f"{name}={value}" for name, value in train.items()),
)
def test_every_way_to_spread_a_step_gives_the_same_losses_and_weights(reference, tmp_path, train):
    losses, weights = train_variant(reference, tmp_path, **train)
    expected_losses, expected_weights = results(reference)
    assert losses.shape == expected_losses.shape
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-4)
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_bf16_training_follows_fp32_and_saves_bf16_weights(reference, tmp_path, zero_stage):
    losses, weights = train_variant(reference, tmp_path, precision="bf16", num_workers=2, zero_stage=zero_stage)
    expected_losses, _ = results(reference)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    np.testing.assert_allclose(losses.sum(1), expected_losses.sum(1), rtol=0.05)


def test_training_learns(reference):
    losses, _ = results(reference)
    assert losses[-5:].sum(1).mean() < 0.8 * losses[:5].sum(1).mean()


def test_frozen_layers_and_embeddings_keep_their_weights(reference, tmp_path):
    config = dataclasses.replace(
        reference,
        output=str(tmp_path / "frozen"),
        data=dataclasses.replace(reference.data, directory=f"{reference.output}/data"),
        tree=dataclasses.replace(reference.tree, directory=f"{reference.output}/tree"),
        model=dataclasses.replace(reference.model, freeze_layers=1),
        train=TrainConfig(epochs=1, batch_size=64),
    )
    run(config)
    _, weights = results(config)
    pretrained = safetensors.torch.load_file(f"{reference.model.encoder}/model.safetensors")
    changed = {
        name
        for name, tensor in pretrained.items()
        if not name.startswith("pooler") and not torch.equal(weights[f"encoder.transformer.{name}"], tensor)
    }
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    assert len(changed) == 16
