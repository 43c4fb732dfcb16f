"""A server of a model, as its command starts it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from support.launching import ROOT, wait_until
from support.object_store import free_ports
from support.ray import one_at_a_time

TOKEN = "t0ken"


def is_listening(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def served(output: str, log: Path, *options: str, until: Callable[[int], bool] = is_ready) -> Iterator[str]:
    """The address of a server of the model in `output` that wants `TOKEN`; it must end when told to.

    Entered as soon as `until` says yes to its port.
    """
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cxml.serve", output, "--port", str(port), *options]
    environment = {**os.environ, "CXML_SERVE_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with one_at_a_time(), log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: until(port) or process.poll() is not None, "the server does not come up")
            assert process.poll() is None, log.read_text()[-3000:]
            yield f"http://127.0.0.1:{port}"
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=90) == 0
            _, alive = psutil.wait_procs(family, timeout=30)
            assert not alive, "the server left processes running"
        finally:
            process.kill()
