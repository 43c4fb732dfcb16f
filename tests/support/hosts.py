"""Simulated hosts: network namespaces on a bridge, which can be disconnected and connected again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

INTERFACE = "eth0"


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        namespace: name of its network namespace.
        link: name of the bridge's end of its network cable.
        address: its IPv4 address.
    """

    namespace: str
    link: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` on this host."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def cut_off(self) -> None:
        """Disconnect the host."""
        _ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Connect the host again."""
        _ip("link", "set", self.link, "up")


def missing_rights() -> str:
    """The reason why this machine cannot create hosts; empty if it can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    trial = f"cx{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    _ip("netns", "del", trial)
    return ""


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Create hosts 10.77.0.1, 10.77.0.2, ... that reach each other and nothing else. They are removed at the end."""
    tag = secrets.token_hex(3)
    bridge = f"cx{tag}"
    made = [Host(f"cx{tag}-{i}", f"cx{tag}{i}", f"10.77.0.{i}") for i in range(1, count + 1)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for host in made:
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", INTERFACE, "netns", host.namespace)
            _ip("link", "set", host.link, "master", bridge, "up")
            for words in (
                ("addr", "add", f"{host.address}/24", "dev", INTERFACE),
                ("link", "set", INTERFACE, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", host.namespace, *words)
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
