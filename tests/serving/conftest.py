"""A finished run, and a server of it."""

import dataclasses

import pytest
from support.runs import make_encoder, small_config
from support.served import served

from cxml import pipeline


@pytest.fixture(scope="package")
def output(tmp_path_factory):
    """The output of a small run."""
    folder = tmp_path_factory.mktemp("serving")
    config = small_config(folder / "out", make_encoder(folder / "encoder"), train={"epochs": 2})
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    pipeline.run(dataclasses.replace(config, optim=faster))
    return str(folder / "out")


@pytest.fixture(scope="module")
def server(output, tmp_path_factory):
    """Address and log of a server with a token and small limits. One per module: other Ray tests wait for it."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with served(output, log, "--max-texts", "8", "--max-waiting", "4", "--max-characters", "500") as address:
        yield address, log
