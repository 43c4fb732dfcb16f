"""Trainings across hosts (network namespaces) survive the loss of one host's network.

Oracle: losses and metrics of the same run on one host.
"""

import contextlib
import subprocess
import sys
import tempfile

import psutil
import pytest
from support.hosts import INTERFACE, hosts, missing_rights
from support.launching import BIN, ROOT, assert_same_run, launch_environment, plain_run, wait_for_a_checkpoint

pytestmark = pytest.mark.slow  # waits for processes to notice that others are gone

EPOCHS = 8
PORT = 29_400


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A run of two processes on one host: its config file, losses and metrics."""
    return plain_run(tmp_path_factory.mktemp("calm"), EPOCHS)


@pytest.fixture
def two_hosts():
    if reason := missing_rights():
        pytest.skip(reason)
    with hosts(2) as made:
        yield made


def environment(**more):
    return launch_environment(GLOO_SOCKET_IFNAME=INTERFACE, **more)


def options(file, output):
    return [
        "--config", str(file), "--output", str(output), "--checkpoint.every-steps", "10",
        "--checkpoint.every-minutes", "0", "--train.hang-minutes", "0.75",
    ]  # fmt: skip


def stop_tree(processes):
    family = [child for process in processes for child in psutil.Process(process.pid).children(recursive=True)]
    for process in [*processes, *family]:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.kill()
    psutil.wait_procs(family, timeout=30)


def start_torchrun(two_hosts, file, output, logs):
    """One process on each host."""
    started = []
    for rank, (host, log) in enumerate(zip(two_hosts, logs, strict=True)):
        launcher = [
            str(BIN / "torchrun"), "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
            f"--master-addr={two_hosts[0].address}", f"--master-port={PORT}", "launch/train.py",
        ]  # fmt: skip
        started.append(
            subprocess.Popen(
                host.command(*launcher, *options(file, output)), cwd=ROOT, env=environment(),
                stdout=log.open("a"), stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    return started


def test_a_host_cut_off_is_noticed_and_the_run_started_again_goes_on(two_hosts, calm, tmp_path):
    output, logs = tmp_path / "run", [tmp_path / "log-0.txt", tmp_path / "log-1.txt"]
    processes = start_torchrun(two_hosts, calm[0], output, logs)
    try:
        wait_for_a_checkpoint(output, 20, logs[0], processes[0])
        two_hosts[1].cut_off()
        assert all(process.wait(timeout=240) for process in processes), "they end, and not as if all were well"
        assert not (output / "model" / "manifest.json").exists()
    finally:
        if any(process.poll() is None for process in processes):
            stop_tree([process for process in processes if process.poll() is None])
    two_hosts[1].join()
    again = start_torchrun(two_hosts, calm[0], output, logs)
    assert [process.wait(timeout=240) for process in again] == [0, 0], logs[0].read_text()[-3000:]
    assert "Resuming from" in logs[0].read_text()
    assert_same_run(output, calm)


def ray_environment(temporary):
    return environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=temporary)


def start_ray(host, temporary, *words):
    command = [str(BIN / "ray"), "start", f"--node-ip-address={host.address}", "--num-cpus=1", "--disable-usage-stats"]
    ray = host.command(*command, "--object-store-memory=100000000", *words)
    subprocess.run(ray, check=True, capture_output=True, timeout=120, env=ray_environment(temporary))


def test_a_ray_cluster_that_loses_a_host_goes_on_with_fewer_processes(two_hosts, calm, tmp_path):
    first, second = two_hosts
    output, log = tmp_path / "run", tmp_path / "log.txt"
    before = {process.pid for process in psutil.process_iter()}
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets need a short path
    try:
        start_ray(first, temporary, "--head", f"--port={PORT}", "--include-dashboard=false")
        start_ray(second, temporary, f"--address={first.address}:{PORT}")
        driver = subprocess.Popen(
            first.command(
                sys.executable, "-m", "cxml.train", *options(calm[0], output), "--launch.min-workers", "1",
                "--launch.cpus-per-worker", "1",
            ),
            cwd=ROOT, env={**ray_environment(temporary), "RAY_ADDRESS": f"{first.address}:{PORT}"},
            stdout=log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_for_a_checkpoint(output, 20, log, driver)
        second.cut_off()
        assert driver.wait(timeout=400) == 0, log.read_text()[-3000:]
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if process.pid not in before and "ray" in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    assert "Resuming from" in log.read_text()
    assert_same_run(output, calm)
