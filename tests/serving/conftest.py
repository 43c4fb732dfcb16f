"""A finished run to serve."""

import dataclasses

import pytest
from support.runs import make_encoder, small_config

from cxml import pipeline


@pytest.fixture(scope="package")
def output(tmp_path_factory):
    """The output of a small run."""
    folder = tmp_path_factory.mktemp("serving")
    config = small_config(folder / "out", make_encoder(folder / "encoder"), train={"epochs": 2})
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    pipeline.run(dataclasses.replace(config, optim=faster))
    return str(folder / "out")
