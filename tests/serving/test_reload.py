"""SIGHUP replaces the served model without a lost request; a broken model changes nothing.

Oracle: two models with different names for the same labels, which show which of them answered.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter

import httpx
import psutil
import pytest
from support.launching import ROOT, wait_until
from support.served import TOKEN, AnswersBy, served

from cxml.parallel import Exchange
from cxml.prediction import read_parts, write_exported
from cxml.serving.models import ServedModel

TEXTS = ["cholera due to vibrio", "typhoid fever"]
CLIENTS = 6


@pytest.fixture(scope="module")
def exported(output, tmp_path_factory):
    """Folders of an old and a new model, whose labels are named `old: ...` and `new: ...`."""
    folder = tmp_path_factory.mktemp("exported")
    parts = read_parts(output, Exchange(is_alone=True))
    for age in ("old", "new"):
        names = [f"{age}: {name}" for name in parts.names]
        write_exported(str(folder / age), dataclasses.replace(parts, names=names))
    return folder


def point_to(link, target):
    """Have a link lead to a folder, in one step."""
    link.with_suffix(".next").unlink(missing_ok=True)
    link.with_suffix(".next").symlink_to(target)
    link.with_suffix(".next").replace(link)


def loads(address):
    """How many models were served, and how many failed."""
    metrics = httpx.get(f"{address}/metrics", timeout=60).text
    found = dict(re.findall(r'^cxml_model_loads_total\{outcome="(\w+)"\} (\d+)', metrics, re.MULTILINE))
    return int(found["served"]), int(found["failed"])


def process_on(address):
    port = int(address.rpartition(":")[2])
    return next(
        one.pid for one in psutil.net_connections("tcp") if one.laddr.port == port and one.status == psutil.CONN_LISTEN
    )


class Clients:
    """Clients that ask without a pause; the ages of the models that answered, in the order of the answers."""

    def __init__(self, address):
        self.address, self.ages, self.statuses, self._is_over = address, [], Counter(), threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self):
        with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
            while not self._is_over.is_set():
                answer = client.post(f"{self.address}/predict", json={"texts": TEXTS, "k": 3})
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    names = [label["name"] for labels in answer.json()["predictions"] for label in labels]
                    (age,) = {name[:3] for name in names}  # one model gave the whole answer
                    self.ages.append(age)

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for each in self._threads:
            each.join()


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_under_load_a_new_model_takes_over_without_a_lost_request_and_a_broken_one_does_not(
    exported, engine, tmp_path
):  # fmt: skip
    link = tmp_path / "model"
    broken = tmp_path / "broken"
    shutil.copytree(exported / "new", broken)
    weights = max(broken.rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-100])
    point_to(link, exported / "old")
    with served(str(link), tmp_path / "log.txt", "--engine", engine, "--cpus", "0.5") as address:
        pid = process_on(address)
        with Clients(address) as clients:
            wait_until(lambda: len(clients.ages) > 2 * CLIENTS, "nobody is answered")
            point_to(link, broken)
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: loads(address) == (1, 1), "the broken model is not noticed")
            assert httpx.get(f"{address}/ready", timeout=60).status_code == 200
            assert set(clients.ages) == {"old"}
            point_to(link, exported / "new")
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: loads(address) == (2, 1), "the new model is not served")
            count = len(clients.ages)
            wait_until(lambda: len(clients.ages) > count + 2 * CLIENTS, "nobody is answered any more")
        assert set(clients.statuses) == {200}
        assert set(clients.ages[-CLIENTS:]) == {"new"}
    log = (tmp_path / "log.txt").read_text()
    assert "Could not load the new model; the previous one is still served." in log
    assert str(link) in log


def test_a_model_is_closed_only_when_the_requests_that_use_it_are_answered():
    old, new = AnswersBy(None), AnswersBy(None)
    served = ServedModel("a model", old)
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(served.in_use()) is old
        replacing = threading.Thread(target=served.replace, args=(new,))
        replacing.start()
        wait_until(lambda: served._model is new, "the new model is not served")
        with served.in_use() as model:
            assert model is new
        assert not old.is_closed
    replacing.join(60)
    assert old.is_closed
    assert not new.is_closed


PROGRAM = """
import fcntl, termios
from queue import SimpleQueue
from cxml.serving.running import _take_signals
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
events = SimpleQueue()
_take_signals(events)
print("ready", flush=True)
print(events.get(), flush=True)
events.get()
"""


def test_a_terminal_that_closes_ends_the_server_while_the_signal_alone_reloads():
    master, slave = os.openpty()
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        read_until(master, b"ready")
        process.send_signal(signal.SIGHUP)
        read_until(master, b"reload\r\n")  # all of it, or closing fails the write
        os.close(master)
        assert process.wait(60) == 0


def read_until(terminal, word):
    said = b""
    while word not in said:
        said += os.read(terminal, 1024)
