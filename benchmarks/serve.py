"""Measures a server at saturation: its throughput, its latencies, its memory, and whether bad requests disturb it.

    python benchmarks/serve.py --config configs/icd10cm.yaml [--engine local] [--minutes 10] [--quick]

The benchmark trains the run of the config, or takes it if it is finished (options of `python -m cxml.train` may
follow), and starts `python -m cxml.serve` for it on all cores.

The first part measures speed, in rounds whose medians count. In each round the same texts are predicted three times:

- by `Predictor.predict` in a process of its own, which sorts all texts by length and cuts them into batches;
- by the server for 64 clients that ask for 8 texts each without a pause, so that requests always wait for it;
- by the server for 8 such clients, whose latencies are measured.

A round also measures how long `Predictor.predict` takes for the 64 texts that the 8 clients ask for at the same time.
The clients share the cores with the server.

The second part is the soak test: clients ask for one to eight texts while two others disturb them. One sends broken
JSON, wrong types, wrong tokens, megabytes of unknown keys, and texts and bodies that are too long, and it disconnects
during requests. The other keeps 200 connections open that never finish the head or the body of a request. Every good
answer is compared with the server's first answer for the same text, `/health` is requested all the time, and the model
is reloaded halfway.

Memory is that of all of the server's processes: resident (including memory shared with other processes) and unique. The
last line is JSON: texts per second against those of batch prediction. The goal is 0.8 of them. It also asks for a p50
under twice the time of the clients' batch, a p99 under three times the p50, less than 700 MiB resident at the start, no
failed good request except with status 429 or 503, a refusal of every bad request, and a growth of memory during the
soak test of at most a tenth.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import multiprocessing
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
from collections.abc import Callable, Iterator
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
from support.small_runs import run_here

from cxml.console import set_up_logging
from cxml.data import ShardedDataset, data_url
from cxml.parallel import run_workers
from cxml.pipeline import run
from cxml.prediction import Predictor

TOKEN = "benchmark"
CLIENTS = 8
SATURATING_CLIENTS = 64
SLOW_CLIENTS = 200
TEXTS_OF_A_CLIENT = 8
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
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=4096, help="texts per round")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of the soak test")
    options, rest = parser.parse_known_args()
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    if options.quick:
        options.minutes, options.rounds, options.texts = 6 / 60, 2, 1024
        words[2:2] = [*QUICK, "--train.epochs", "1", "--output", "runs/benchmarks/predict-quick"]
    config = config_of("serve.py", words)
    set_up_logging(is_main=True)
    run(config, run_job=run_here if options.quick else run_workers)
    test = ShardedDataset(data_url(config), "test")
    texts = test.texts(np.arange(min(500, len(test))))
    with served(config.output, options.engine) as (address, process), predicting(config.output) as predict:
        server = psutil.Process(process.pid)
        at_start = Memory.of(server)
        speed = Speed.measure(address, texts, predict, rounds=options.rounds, num_texts=options.texts)
        soak = Soak(address, texts, 60 * options.minutes)
        memory = soak.run(server)
        is_alive = process.poll() is None and httpx.get(f"{address}/ready").status_code == 200
    print_speed(speed, at_start)
    print_answers(soak, memory)
    fine = is_alive and not soak.problems and set(soak.good_statuses) <= {200, *BUSY} and soak.num_reloads >= 1
    fine &= statistics.median(one.unique for one in memory[-5:]) < 1.1 * memory[len(memory) // 10].unique
    fine &= speed.p50_s < 2 * speed.batch_s and speed.p99_s < 3 * speed.p50_s and at_start.resident < 700 << 20
    print_closing_line("serve", speed.texts_per_s, "texts/s", speed.batch_texts_per_s, goal=0.8, provided=fine)


@contextlib.contextmanager
def served(output: str, engine: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server of the run in `output`, yield its address and process once it is ready, and terminate it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "CXML_SERVE_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}
    log = Path(output, "serve.log")
    with log.open("w") as file:
        command = [sys.executable, "-m", "cxml.serve", output, "--port", str(port), "--engine", engine]
        if engine == "ray":
            command += ["--cpus", str(psutil.cpu_count())]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            while not _is_ready(address):
                if process.poll() is not None:
                    sys.exit(f"The server ended unexpectedly; see {log}")
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


@contextlib.contextmanager
def predicting(output: str) -> Iterator[Callable[[list[str]], float]]:
    """Yield a function that times `Predictor.predict` on some texts in a process that has loaded the model."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=_load, initargs=(output,)) as pool:
        yield lambda texts: pool.submit(_seconds_of, texts).result()


def _load(output: str) -> None:
    global _predictor  # noqa: PLW0603 - one per process of the pool
    _predictor = Predictor.from_checkpoint(output)


def _seconds_of(texts: list[str]) -> float:
    began = time.perf_counter()
    predicted = _predictor.predict(texts)
    assert len([predicted[row] for row in range(len(texts))]) == len(texts)  # reads the names too, as the server does
    return time.perf_counter() - began


@dataclass(frozen=True)
class Speed:
    """Speeds and latencies as medians over the rounds."""

    texts_per_s: float
    batch_texts_per_s: float
    p50_s: float
    p99_s: float
    batch_s: float
    """Seconds of `Predictor.predict` for one request of every client together."""

    @classmethod
    def measure(
        cls, address: str, texts: list[str], predict: Callable[[list[str]], float], *, rounds: int, num_texts: int
    ) -> Speed:
        """Measure batch prediction and the server alternately."""
        rng = random.Random(0)
        figures = []
        for number in range(rounds + 1):
            asked = rng.choices(texts, k=num_texts)
            batch_s = predict(asked[: CLIENTS * TEXTS_OF_A_CLIENT])
            all_s = predict(asked)
            _, seconds = ask_for_all(address, asked, SATURATING_CLIENTS)
            waits, _ = ask_for_all(address, asked[: len(asked) // 2], CLIENTS)
            if number:  # the first round is a warm-up
                p50, p99 = np.percentile(waits, [50, 99])
                figures.append((num_texts / seconds, num_texts / all_s, p50, p99, batch_s))
        return cls(*(float(each) for each in np.median(figures, axis=0)))


def ask_for_all(address: str, texts: list[str], num_clients: int) -> tuple[list[float], float]:
    """Send all texts; return the seconds of each request and of all of them together."""
    requests = iter([texts[at : at + TEXTS_OF_A_CLIENT] for at in range(0, len(texts), TEXTS_OF_A_CLIENT)])
    waits: list[float] = []
    host = address.removeprefix("http://")
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

    def client() -> None:
        connection = http.client.HTTPConnection(host, timeout=120)  # much faster than httpx
        for each in requests:  # all clients share the iterator
            began = time.perf_counter()
            connection.request("POST", "/predict", json.dumps({"texts": each}), headers)
            answer = connection.getresponse()
            content = answer.read()
            waits.append(time.perf_counter() - began)
            if answer.status != 200:
                sys.exit(f"The server answered {answer.status}: {content[:200]!r}")
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(num_clients)]
    began = time.perf_counter()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return waits, time.perf_counter() - began


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and its descendants."""

    resident: int
    unique: int

    @classmethod
    def of(cls, process: psutil.Process) -> Memory:
        """Sum the memory over the processes."""
        found = []
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(one.memory_full_info())
        return cls(sum(one.rss for one in found), sum(one.uss for one in found))


@dataclass
class Soak:
    """Clients that send requests for some time, and the answers that they got."""

    address: str
    texts: list[str]
    seconds: float
    good_statuses: Counter[int] = field(default_factory=Counter)
    bad_statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    health_waits: list[float] = field(default_factory=list)
    num_slow: int = 0
    num_reloads: int = 0
    problems: list[str] = field(default_factory=list)
    _labels: dict[str, str] = field(default_factory=dict)

    def run(self, server: psutil.Process) -> list[Memory]:
        """Send requests until the time is over; return the server's memory, sampled once a second."""
        self._until = time.monotonic() + self.seconds
        clients = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]
        clients += [threading.Thread(target=one) for one in (self._disturb, self._stall, self._ask_for_health)]
        memory = []
        for client in clients:
            client.start()
        while time.monotonic() < self._until:
            time.sleep(1)
            memory.append(Memory.of(server))
            if time.monotonic() > self._until - self.seconds / 2 and not self.num_reloads:
                server.send_signal(signal.SIGHUP)
                self.num_reloads += 1
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
        """Check that a text gets the same best label in any batch, except for bf16 rounding."""
        for text, labels in zip(texts, predictions, strict=True):
            first = self._labels.setdefault(text, labels[0]["name"])
            scores = {label["name"]: label["score"] for label in labels}
            if scores.get(first, 0.0) < 0.95 * labels[0]["score"]:
                self.problems.append(f"{text!r} got {labels[0]['name']} after {first}")

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
        """Keep connections open that never finish a request, with and without the token."""
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


def print_speed(speed: Speed, at_start: Memory) -> None:
    """Print the figures of the first part with their goals."""
    title = f"Clients that ask for {TEXTS_OF_A_CLIENT} texts per request"
    table = Table("", "", "goal", title=title, title_justify="left")
    share = speed.texts_per_s / speed.batch_texts_per_s
    table.add_row("texts/s: Predictor.predict", f"{speed.batch_texts_per_s:.0f}", "")
    table.add_row(f"texts/s: server, {SATURATING_CLIENTS} clients", f"{speed.texts_per_s:.0f} ({share:.2f})", "(0.80)")
    table.add_row(f"ms: Predictor.predict for the batch of {CLIENTS} clients", f"{1000 * speed.batch_s:.0f}", "")
    table.add_row("ms: an answer, p50", f"{1000 * speed.p50_s:.0f}", f"{2000 * speed.batch_s:.0f}")
    table.add_row("ms: an answer, p99", f"{1000 * speed.p99_s:.0f}", f"{3000 * speed.p50_s:.0f}")
    table.add_row("MiB at the start: resident", f"{at_start.resident / 2**20:.0f}", "700")
    table.add_row("MiB at the start: unique", f"{at_start.unique / 2**20:.0f}", "")
    Console(width=140).print(table)


def print_answers(soak: Soak, memory: list[Memory]) -> None:
    """Print the statuses and latencies of the soak test, and the memory over time."""
    p50, p99 = np.percentile(soak.waits, [50, 99])
    table = Table("", "", title=f"{CLIENTS} clients for {soak.seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row("answers a second", f"{len(soak.waits) / soak.seconds:.1f}")
    table.add_row("an answer, ms: p50, p99", f"{1000 * p50:.0f}, {1000 * p99:.0f}")
    table.add_row(
        "/health, ms: p50, most", f"{1000 * np.median(soak.health_waits):.0f}, {1000 * max(soak.health_waits):.0f}"
    )
    table.add_row("requests that never finished", f"{soak.num_slow}")
    table.add_row("good requests, by status", str(dict(sorted(soak.good_statuses.items()))))
    table.add_row("bad requests, by status", str(dict(sorted(soak.bad_statuses.items()))))
    steps = np.linspace(0, len(memory) - 1, min(6, len(memory))).astype(int)
    for name in ("resident", "unique"):
        sizes = ", ".join(f"{getattr(memory[step], name) / 2**20:.0f}" for step in steps)
        table.add_row(f"MiB over time: {name}", sizes)
    Console(width=140).print(table)
    for problem in soak.problems[:10]:
        print(problem)


if __name__ == "__main__":
    main()
