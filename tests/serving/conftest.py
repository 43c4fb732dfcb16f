"""A finished run, and a server of it."""

import pytest
from support.served import served, trained


@pytest.fixture(scope="package")
def output(tmp_path_factory):
    """The output of a small run."""
    return trained(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="package")
def predictor(output):
    """The model of the run."""
    import cxml

    return cxml.Predictor.from_checkpoint(output)


@pytest.fixture(scope="module")
def engine():
    """Where the model of `server` runs. Modules that hold for both engines give this fixture parameters."""
    return "local"


@pytest.fixture(scope="module")
def server(output, engine, tmp_path_factory):
    """Address and log of a server with a token and small limits. One per module: other Ray tests wait for it."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    limits = ["--max-texts", "8", "--max-waiting", "4", "--max-characters", "500"]
    with served(output, log, "--engine", engine, *limits) as address:
        yield address, log
