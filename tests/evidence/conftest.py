"""Texts of random words and a tree over their labels; a run whose model has all sources."""

import dataclasses

import numpy as np
import pytest
from support.random_words import random_texts
from support.runs import make_encoder, small_config

from cxml import pipeline
from cxml.config import EvidenceConfig
from cxml.tree import LabelTree


@pytest.fixture(scope="session")
def texts():
    return random_texts()


@pytest.fixture(scope="session")
def tree():
    """Two levels of clusters over 24 labels, in an order that is not that of the label ids."""
    order = np.random.default_rng(1).permutation(24).astype(np.int32)
    return LabelTree(order, (np.array([0, 2, 5]), np.array([0, 3, 9, 12, 20, 24])))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The config of a finished run whose model has all sources, and its report."""
    folder = tmp_path_factory.mktemp("evidence")
    config = small_config(
        folder / "out", make_encoder(folder / "encoder"), train={"epochs": 6, "validation_fraction": 0.25}
    )  # fmt: skip
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    config = dataclasses.replace(config, optim=faster, evidence=EvidenceConfig(words=True, neighbours=True, names=True))
    return config, pipeline.run(config)
