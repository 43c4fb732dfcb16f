"""A finished run, and a server of it."""

import pytest
from support.served import served, trained


@pytest.fixture(scope="package")
def output(tmp_path_factory):
    """The output of a small run."""
    return trained(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def server(output, tmp_path_factory):
    """Address and log of a server with a token and small limits. One per module: other Ray tests wait for it."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with served(output, log, "--max-texts", "8", "--max-waiting", "4", "--max-characters", "500") as address:
        yield address, log
