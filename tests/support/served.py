"""Servers of models, started by the command or in this process."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil

from cxml import pipeline
from cxml.serving import ServeOptions
from support.launching import ROOT, wait_until
from support.object_store import free_ports
from support.ray import one_at_a_time
from support.runs import make_encoder, small_config

TOKEN = "t0ken"


def is_listening(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)  # httpx reads certificates at every call
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def trained(folder: Path) -> str:
    """Train a small model below a folder. Returns the output folder of the run."""
    config = small_config(folder / "out", make_encoder(folder / "encoder"), train={"epochs": 2})
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    pipeline.run(dataclasses.replace(config, optim=faster))
    return str(folder / "out")


class AnswersBy:
    """A served model whose answers come from a function."""

    def __init__(self, answer: Any, num_labels: int = 3) -> None:
        self.answer, self.num_labels, self.is_closed = answer, num_labels, False
        self.threshold_names = ()

    def is_answering(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def http_server_for(answer: Any, options: ServeOptions) -> Iterator[tuple[int, Any]]:
    """Run the HTTP server in this process, without a model. `answer` answers. Yields its port and the server."""
    from cxml.serving.addresses import bind
    from cxml.serving.http_server import HttpServer
    from cxml.serving.models import ServedModel

    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    server = HttpServer(ServedModel("a model", AnswersBy(answer), "ready"), options, sockets)
    server.start()
    try:
        wait_until(lambda: is_listening(port), "the server does not listen")
        yield port, server
    finally:
        server.end()


@contextmanager
def served(
    output: str, log: Path, *options: str, until: Callable[[int], bool] = is_ready, token: str = TOKEN
) -> Iterator[str]:
    """Run `cxml.serve` for the model in `output`, by default with a token. Yields its address once `until(port)` holds.

    At the end the server must exit with code 0 on SIGTERM and leave no process.
    """
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cxml.serve", output, "--port", str(port), *options]
    environment = {**os.environ, "CXML_SERVE_TOKEN": token, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    alone = one_at_a_time() if "ray" in options else nullcontext()
    with alone, log.open("w") as file:
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
