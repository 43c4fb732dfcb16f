"""A Ray head with its job server, as `ray job submit` finds it on a cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import psutil
import pytest

from support.launching import BIN
from support.object_store import free_ports
from support.ray import one_at_a_time


@contextlib.contextmanager
def job_server() -> Iterator[dict[str, str]]:
    """Start a Ray head with its job server on free loopback ports. Yields the environment of its clients."""
    gcs, dashboard, agent, client = free_ports(4)
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets need a short path
    start = [
        str(BIN / "ray"), "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=4",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        "--object-store-memory=200000000", "--disable-usage-stats",
    ]  # fmt: skip
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}
    with one_at_a_time():
        try:
            subprocess.run(start, check=True, capture_output=True, timeout=120, env={**os.environ, **token})
            known_to_clients = {**token, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
            _wait_until_jobs_are_taken(known_to_clients)
            yield known_to_clients
        finally:
            mine = list(_rays_processes(folder))
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # a clean end takes a minute
            _, alive = psutil.wait_procs(mine, timeout=60)
            assert not alive, "Ray left processes running"
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_jobs_are_taken(client: dict[str, str]) -> None:
    """Submit trial jobs until one runs: the server answers before its agent can start jobs."""
    for _ in range(30):
        trial = [str(BIN / "ray"), "job", "submit", "--", "true"]
        done = subprocess.run(trial, env={**os.environ, **client}, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    pytest.fail(f"Ray's job server takes no jobs: {done.stderr[-500:]}")


def _rays_processes(folder: str) -> Iterator[psutil.Process]:
    """Ray's processes with files in `folder`, and their children, which may have other names and environments."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            is_own = folder in " ".join(process.cmdline()) or process.environ().get("RAY_TMPDIR") == folder
            if is_own and process.pid != os.getpid():
                yield from process.children(recursive=True)
                yield process
