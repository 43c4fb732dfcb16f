"""A real Slurm cluster on this machine: a controller and two nodes, which are processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from support.object_store import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_SYSTEM = "/usr/sbin:/usr/local/sbin"


def find(program: str) -> str | None:
    """The path of a Slurm program, or None if it is not installed."""
    return shutil.which(program, path=f"{os.environ['PATH']}:{_SYSTEM}")


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster with all files in `folder`. Yields the environment in which `sbatch` finds it."""
    key, munge_socket, config = folder / "munge.key", folder / "munge.sock", folder / "slurm.conf"
    folder.chmod(0o700)
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "state").mkdir()
    config.write_text(_config(folder, munge_socket))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    files = [f"--{name}={folder / name}" for name in ("pid-file", "log-file", "seed-file")]
    _start("munged", f"--key-file={key}", f"--socket={munge_socket}", *files, "--force", environment=environment)
    _start("slurmctld", "-f", str(config), environment=environment)
    for node in ("n1", "n2"):
        _start("slurmd", "-f", str(config), "-N", node, environment=environment)
    try:
        yield environment
    finally:
        _stop(folder)


def _config(folder: Path, munge_socket: Path) -> str:
    host = socket.gethostname().split(".")[0]
    controller, one, two = free_ports(3)
    nodes = "".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
        for name, port in (("n1", one), ("n2", two))
    )
    settings = {
        "ClusterName": "test", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmctldPort": controller,
        "SlurmUser": psutil.Process().username(), "AuthType": "auth/munge",
        "AuthInfo": f"socket={munge_socket},cred_expire=10",
        "CredType": "cred/munge", "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool-%n",
        "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": folder / "slurmd-%n.pid",
        "SlurmctldLogFile": folder / "slurmctld.log", "SlurmdLogFile": folder / "slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core", "MpiDefault": "none", "ReturnToService": 2,
        "SlurmdParameters": "config_overrides",  # a job that goes back into the queue rests as long as credentials last
    }  # fmt: skip
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    return f"{lines}{nodes}PartitionName=all Nodes=n1,n2 Default=YES State=UP\n"


def _start(program: str, *arguments: str, environment: dict[str, str]) -> None:
    path = find(program)
    assert path is not None, f"{program} is not installed"
    subprocess.run([path, *arguments], check=True, env=environment, timeout=30, stdout=subprocess.DEVNULL)


def _stop(folder: Path) -> None:
    """End the daemons and their jobs: all processes whose command line or environment names the folder."""
    mine = [one for one in psutil.process_iter() if _belongs_to(one, folder)]
    for process in mine:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(mine, timeout=20)
    for process in alive:
        process.kill()


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        in_environment = str(folder) in process.environ().get("SLURM_CONF", "")
        return process.pid != os.getpid() and (in_environment or str(folder) in " ".join(process.cmdline()))
    return False
