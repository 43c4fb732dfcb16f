"""Hosts of their own on this machine: network namespaces on a bridge, which can be cut off and joined again."""

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
        namespace: its name.
        link: the bridge's end of its cable.
        address: its IPv4 address.
    """

    namespace: str
    link: str
    address: str

    def command(self, *words: str) -> list[str]:
        """A command line that runs on it."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def cut_off(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Plug its cable in again."""
        _ip("link", "set", self.link, "up")


def missing_rights() -> str:
    """Why there can be no hosts here; empty if there can."""
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
    """Hosts 10.77.0.1, 10.77.0.2, ... that reach each other and nothing else; gone afterwards."""
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
