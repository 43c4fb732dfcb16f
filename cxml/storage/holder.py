"""Who holds a lock, for people and for other processes."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import shlex
import socket
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import psutil

from cxml import urls
from cxml.operating_system import machine_id, start_ticks, user_id

_LONGEST_COMMAND = 400
_CLOCK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        host: name of its machine.
        pid: its number there.
        user: who runs it.
        since: when it took the lock, ISO 8601.
        command: its command line, without the credentials of URLs.
        machine: tells whether `pid` means anything here: host, boot and process namespace.
        started: when the process began, seconds since 1970: numbers of processes come again.
        ticks: the same since the machine's start, which stays when its clock is set; 0 where that is unknown.
    """

    host: str = "unknown"
    pid: int = 0
    user: str = "unknown"
    since: str = "unknown"
    command: str = "another command"
    machine: str = ""
    started: float = 0.0
    ticks: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        """The process that calls."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            user=_user(),
            since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=shlex.join(map(urls.masked, sys.orig_argv))[:_LONGEST_COMMAND],
            machine=machine_id(),
            started=psutil.Process().create_time(),
            ticks=start_ticks(os.getpid()),
        )

    @classmethod
    def from_json(cls, content: bytes) -> Holder:
        """What `to_json` gave, as bytes; what cannot be read is unknown."""
        try:
            found = json.loads(content)
        except ValueError:
            return cls()
        if not isinstance(found, dict):
            return cls()
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if isinstance(value, kinds.get(name, ()))})

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)

    @property
    def is_dead(self) -> bool:
        """Whether the process has certainly ended: only processes of this machine can be looked up."""
        if not self.machine or self.machine != machine_id():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # it has ended, and its parent has not asked how
                return True
            if self.ticks:
                return start_ticks(self.pid) != self.ticks
            return abs(process.create_time() - self.started) > _CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} of {self.user} on {self.host}, since {self.since})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        return str(user_id())
