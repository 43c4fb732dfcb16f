"""The server ends cleanly while it loads, while it answers, and after its Ray has died.

Oracle: real servers, their exit codes, answers and processes.
"""

import contextlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from support.launching import ROOT, wait_until
from support.object_store import free_ports
from support.ray import one_at_a_time
from support.served import TOKEN, is_listening, is_ready, served


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_told_to_end_while_the_model_loads_it_ends_with_code_0_and_leaves_nothing(output, engine, tmp_path):
    with served(output, tmp_path / "log.txt", "--engine", engine, until=is_listening):
        pass
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_told_to_end_it_answers_what_it_has_accepted(output, engine, tmp_path):
    texts = ["fever " * 3000] * 64

    def ask(address):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.post(f"{address}/predict", json={"texts": texts}, headers=headers, timeout=120).status_code

    def num_accepted(address):
        return float(re.search(r"^cxml_texts_total (.*)$", httpx.get(f"{address}/metrics").text, re.MULTILINE)[1])

    with ThreadPoolExecutor(4) as pool:
        with served(output, tmp_path / "log.txt", "--engine", engine) as address:
            asked = [pool.submit(ask, address) for _ in range(4)]
            wait_until(lambda: num_accepted(address) == 4 * len(texts), "the requests do not arrive")
        assert [one.result() for one in asked] == [200] * 4
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


PROGRAM = """
import signal, threading
from queue import SimpleQueue
from cxml.serving.running import _take_signals
from cxml.stopping import stopping_on_signals

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

with stopping_on_signals():
    _take_signals(SimpleQueue())
    Finalized()
    threading.Event().wait(60)
raise AssertionError("the signal is lost")
"""


def test_it_ends_if_python_drops_the_exception_of_a_signal_in_a_finalizer():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_ends_when_the_ray_below_it_has_died(output, tmp_path):
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cxml.serve", output, "--port", str(port), "--timeout-s", "2", "--engine", "ray"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log.txt"
    with one_at_a_time(), log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        family = []
        try:
            wait_until(lambda: is_ready(port) or process.poll() is not None, "the server does not come up")
            family = psutil.Process(process.pid).children(recursive=True)
            for each in family:
                if each.name() == "raylet":
                    each.kill()
            assert process.wait(timeout=120) == 2
        finally:
            for each in [process, *family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
    assert "Ray node died. Restart the command." in log.read_text()
