"""The run that every way of launching must repeat."""

import pytest
import yaml

from cxml.config import config_to_dict
from cxml.pipeline import run
from cxml.storage import read_json
from tests.support.launching import STEPS
from tests.support.runs import make_encoder, read_losses, small_config


@pytest.fixture(scope="package")
def expected(tmp_path_factory):
    """A config file, and the losses and metrics of two processes that the command itself starts."""
    folder = tmp_path_factory.mktemp("launching")
    config = small_config(folder / "here", make_encoder(folder / "encoder"), train={"epochs": 1, "num_workers": 2})
    run(config)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    losses = read_losses(folder / "here")
    assert len(losses) >= STEPS
    return file, losses, read_json(str(folder / "here" / "report.json"), "")["levels"]
