"""A finished run, trained once for all tests of prediction."""

import dataclasses

import numpy as np
import pytest
from support.runs import make_encoder, small_config

from cxml import pipeline
from cxml.data import ShardedDataset

EPOCHS = 8  # of 22 steps; after half as many, all texts have the same labels


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The config of a finished run with a checkpoint of its last step, and its report."""
    folder = tmp_path_factory.mktemp("prediction")
    encoder = make_encoder(folder / "encoder")
    config = small_config(
        folder / "out", encoder, optim={}, train={"epochs": EPOCHS}, evaluate={"batch_size": 64},
    )  # fmt: skip
    checkpoint = dataclasses.replace(config.checkpoint, every_minutes=0.0, every_steps=22 * EPOCHS, keep_last=1)
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    config = dataclasses.replace(config, checkpoint=checkpoint, optim=faster)
    return config, pipeline.run(config)


@pytest.fixture(scope="session")
def lines(run):
    """The texts of the test split, each in one line."""
    dataset = ShardedDataset(f"{run[0].output}/data", "test")
    return [text.replace("\n", " ") for text in dataset.texts(np.arange(len(dataset)))]
