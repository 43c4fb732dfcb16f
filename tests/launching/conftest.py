"""The run that every way of launching must repeat."""

import pytest
from support.launching import STEPS, plain_run
from support.ray_jobs import job_server as a_job_server


@pytest.fixture(scope="package")
def expected(tmp_path_factory):
    """A config file, and the losses and metrics of two processes that the command itself starts."""
    calm = plain_run(tmp_path_factory.mktemp("launching"), epochs=1)
    assert len(calm[1]) >= STEPS
    return calm


@pytest.fixture(scope="module")
def job_server():
    """What the environment of the clients of a Ray head needs."""
    with a_job_server() as known_to_clients:
        yield known_to_clients
