"""Settings and fixtures for all tests."""

import os
import signal

import pytest
from hypothesis import settings

# Tests run two at a time on two cores; more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

import torch

if not torch.accelerator.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when anything first imports Triton
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell that starts the tests in the background makes them ignore Ctrl-C. Their processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from support import warm_workers

from cxml.operating_system import SCHEDULER_SIGNALS

HANDLERS = {number: signal.getsignal(number) for number in SCHEDULER_SIGNALS}

warm_workers.use()

# The time of an example depends on other work of the machine more than on the code.
settings.register_profile("cxml", deadline=None)
settings.load_profile("cxml")


@pytest.fixture(autouse=True)
def pythons_own_signal_handlers():
    """Start each test with Python's handlers: `ray.init` in the process of the tests leaves its own for SIGTERM."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def credentials_of_this_module():
    """Forget the credentials that a module's tests made known: later messages would mask the same words."""
    from cxml import urls

    before = urls._learnt.copy(), urls._user_infos.copy()
    yield
    for known, earlier in zip((urls._learnt, urls._user_infos), before, strict=True):
        known.clear()
        known.update(earlier)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The port of a real S3 server."""
    from support.object_store import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def use_store(monkeypatch):
    """Point s3:// URLs at a port."""
    import fsspec
    from support.object_store import options

    def use(port):
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        monkeypatch.setitem(fsspec.config.conf, "s3", options(port))

    yield use
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def patient(monkeypatch):
    """Many attempts with short pauses. The pauses for a real store would take most of the test's time."""
    from tenacity import wait_fixed

    monkeypatch.setattr("cxml.storage.opening._ATTEMPTS", 40)
    monkeypatch.setattr("cxml.storage.opening.wait_random_exponential", lambda **_: wait_fixed(0.01))
