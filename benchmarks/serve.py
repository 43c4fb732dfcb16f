"""A server at saturation for a while, bad requests among the good: no crash, no leak, and how long an answer takes.

    python benchmarks/serve.py --config configs/icd10cm.yaml [--minutes 10] [--quick]

Trains, or takes, the run of the config (options of `python -m cxml.train` may follow), starts `python -m cxml.serve`
for it, and lets clients ask without a pause, most with one to eight test texts. Two others disturb them: one sends
broken JSON, wrong types, wrong tokens, megabytes of unknown keys, texts and bodies that are too long, and hangs up
half-way; the other keeps 200 connections open that never finish the head or the body of a request. Every good answer
is held to what the server said first, and `/health` is asked all the time. Memory is that of all of the server's
processes. The last line is JSON: memory at the end against that after the first tenth; the goal also asks that no good
request failed but by 429 or 503, and that every bad one was refused.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from quality.compare import QUICK
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.configs import config_of

from cxml.console import set_up_logging
from cxml.data import ShardedDataset, data_url
from cxml.pipeline import run

TOKEN = "benchmark"
CLIENTS = 8
SLOW_CLIENTS = 200
BUSY = (429, 503)
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()
BAD_BODIES = [
    b"", b"{", b"[]", b'{"texts": 1}', b"\xff\xfe", b'{"texts": ["a"], "k": -1}', b'{"texts": ["a"], "k": 1e9}',
    b'{"texts": ["' + b"a" * 500_000 + b'"]}', b'{"texts": ["a"], "unknown": 1}', b"[" * 50_000, b" " * 16_000_000,
    b'{"texts": ["a"], ' + b",".join(b'"unknown%d": 1' % key for key in range(400_000)) + b"}",
    b'{"texts": [' + b"[]," * 2_000_000 + b"1]}",
]  # fmt: skip


def main() -> None:
    """Parse, train what is missing, serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, ten seconds: under 50 s")
    parser.add_argument("--config", default="configs/icd10cm.yaml")
    parser.add_argument("--minutes", type=float, default=10.0)
    options, rest = parser.parse_known_args()
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    if options.quick:
        options.minutes = 10 / 60
        words[2:2] = [*QUICK, "--output", "runs/benchmarks/quality-quick"]
    config = config_of("serve.py", words)
    set_up_logging(is_speaker=True)
    run(config)
    test = ShardedDataset(data_url(config), "test")
    texts = test.texts(np.arange(min(500, len(test))))
    with served(config.output) as (address, process):
        soak = Soak(address, texts, 60 * options.minutes)
        memory = soak.run(psutil.Process(process.pid))
        is_alive = process.poll() is None and httpx.get(f"{address}/ready").status_code == 200
    print_answers(soak, memory)
    fine = is_alive and not soak.problems and set(soak.good_statuses) <= {200, *BUSY}
    first, last = memory[len(memory) // 10], statistics.median(memory[-5:])
    print_closing_line("serve", last / 2**20, "MiB", first / 2**20, goal=0.9, lower_is_better=True, provided=fine)


@contextlib.contextmanager
def served(output: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a server of the run in `output`, once it is ready; it is told to end afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "CXML_SERVE_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}
    log = Path(output, "serve.log")
    with log.open("w") as file:
        command = [sys.executable, "-m", "cxml.serve", output, "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            while not _is_ready(address):
                if process.poll() is not None:
                    sys.exit(f"The server ended; see {log}")
                time.sleep(0.5)
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=90)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Soak:
    """Clients that ask for a while, and what they were told."""

    address: str
    texts: list[str]
    seconds: float
    good_statuses: Counter[int] = field(default_factory=Counter)
    bad_statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    health_waits: list[float] = field(default_factory=list)
    num_slow: int = 0
    problems: list[str] = field(default_factory=list)
    _labels: dict[str, list[str]] = field(default_factory=dict)

    def run(self, server: psutil.Process) -> list[int]:
        """Ask until the time is over; the memory of all of the server's processes, in bytes, once a second."""
        self._until = time.monotonic() + self.seconds
        clients = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]
        clients += [threading.Thread(target=one) for one in (self._disturb, self._stall, self._ask_for_health)]
        memory = []
        for client in clients:
            client.start()
        while time.monotonic() < self._until:
            time.sleep(1)
            memory.append(memory_of(server))
        for client in clients:
            client.join()
        return memory

    def _ask(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
            while time.monotonic() < self._until:
                texts = rng.sample(self.texts, rng.randint(1, 8))
                began = time.perf_counter()
                answer = client.post(f"{self.address}/predict", json={"texts": texts, "k": 3})
                self.good_statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.waits.append(time.perf_counter() - began)
                    self._check(texts, answer.json()["predictions"])
                elif answer.status_code in BUSY:
                    time.sleep(0.05)

    def _check(self, texts: list[str], predictions: list[list[dict]]) -> None:
        """The same text gets the same best label, whatever batch it came in."""
        for text, labels in zip(texts, predictions, strict=True):
            first = self._labels.setdefault(text, [label["name"] for label in labels])
            if first[0] != labels[0]["name"]:
                self.problems.append(f"{text!r} got {labels[0]['name']} after {first[0]}")

    def _disturb(self) -> None:
        rng = random.Random(0)
        good = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        while time.monotonic() < self._until:
            if rng.random() < 0.2:
                self._hang_up()
                continue
            headers = good if rng.random() < 0.8 else {**good, "Authorization": "Bearer wrong"}
            answer = httpx.post(f"{self.address}/predict", content=rng.choice(BAD_BODIES), headers=headers, timeout=120)
            self.bad_statuses[answer.status_code] += 1
            if not 400 <= answer.status_code < 500 and answer.status_code not in BUSY:
                self.problems.append(f"a bad request got {answer.status_code}")

    def _stall(self) -> None:
        """Keep connections open that never finish a request, with the token and without."""
        starts = [b"", HEAD[:30], HEAD + b"\r\n{", HEAD + BEARER + b"\r\n{"]
        slow: list[socket.socket] = []
        while time.monotonic() < self._until:
            if len(slow) == SLOW_CLIENTS:
                slow.pop(0).close()
            with contextlib.suppress(OSError):
                slow.append(self._connected(starts[self.num_slow % len(starts)]))
                self.num_slow += 1
            time.sleep(2 / SLOW_CLIENTS)
        for connection in slow:
            connection.close()

    def _ask_for_health(self) -> None:
        with httpx.Client(timeout=120) as client:
            while time.monotonic() < self._until:
                began = time.perf_counter()
                if client.get(f"{self.address}/health").status_code != 200:
                    self.problems.append("the server was not healthy")
                self.health_waits.append(time.perf_counter() - began)
                time.sleep(0.05)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._connected(HEAD + BEARER + b"\r\n{").close()

    def _connected(self, sent: bytes) -> socket.socket:
        host, port = self.address.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(sent)
        return connection


def memory_of(process: psutil.Process) -> int:
    """Resident bytes of a process and all below it, those that they share counted once by their share."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total


def print_answers(soak: Soak, memory: list[int]) -> None:
    """What came back, how long it took, and the memory over the time."""
    p50, p99 = np.percentile(soak.waits, [50, 99])
    table = Table("", "", title=f"{CLIENTS} clients for {soak.seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row("answers a second", f"{len(soak.waits) / soak.seconds:.1f}")
    table.add_row("an answer, ms: p50, p99", f"{1000 * p50:.0f}, {1000 * p99:.0f}")
    table.add_row(
        "/health, ms: p50, most", f"{1000 * np.median(soak.health_waits):.0f}, {1000 * max(soak.health_waits):.0f}"
    )
    table.add_row("requests that never ended", f"{soak.num_slow}")
    table.add_row("good requests, by status", str(dict(sorted(soak.good_statuses.items()))))
    table.add_row("bad requests, by status", str(dict(sorted(soak.bad_statuses.items()))))
    steps = np.linspace(0, len(memory) - 1, min(6, len(memory))).astype(int)
    table.add_row("MiB over the time", ", ".join(f"{memory[step] / 2**20:.0f}" for step in steps))
    Console(width=140).print(table)
    for problem in soak.problems[:10]:
        print(problem)


if __name__ == "__main__":
    main()
