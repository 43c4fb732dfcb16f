"""Records the sockets that the processes of a command listen on, from its start to its end."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

_PAUSE_SECONDS = 0.05


@dataclass
class Listening:
    """What was recorded of a process and its descendants.

    Attributes:
        samples: number of samples.
        addresses: addresses that the processes listened on, UDP included.
        strangers: `address:port command` for each address that is not loopback.
        processes: command lines by process id.
        environments: environment variables by process id.
        ports: ports that the processes listened on.
    """

    samples: int = 0
    addresses: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    processes: dict[int, str] = field(default_factory=dict)
    environments: dict[int, dict[str, str]] = field(default_factory=dict)
    ports: set[int] = field(default_factory=set)


def is_loopback(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is a loopback address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


@contextlib.contextmanager
def watched(pid: int, on_port: Callable[[int], object] = id) -> Iterator[Listening]:
    """Sample a process and its descendants within this context. `on_port` is called once for each new port."""
    seen, done = Listening(), threading.Event()
    thread = threading.Thread(target=_watch, args=(pid, seen, done, on_port))
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _watch(pid: int, seen: Listening, done: threading.Event, on_port: Callable[[int], object]) -> None:
    while not done.wait(_PAUSE_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    command = " ".join(process.cmdline())  # changes when a forked process executes a program
                    if command and seen.processes.get(process.pid) != command:
                        seen.processes[process.pid] = command
                        seen.environments[process.pid] = process.environ()
        for one in psutil.net_connections("inet"):
            listens = one.status == psutil.CONN_LISTEN or (one.type == 2 and one.laddr and not one.raddr)
            if one.pid in seen.processes and listens:
                seen.addresses.add(one.laddr.ip)
                if one.laddr.port not in seen.ports:
                    seen.ports.add(one.laddr.port)
                    on_port(one.laddr.port)
                if not is_loopback(one.laddr.ip):
                    seen.strangers.add(f"{one.laddr.ip}:{one.laddr.port} {seen.processes[one.pid]}")
        seen.samples += 1
