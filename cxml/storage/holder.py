"""The holder of a lock, described for people and for other processes."""

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
        host: host name of its machine.
        pid: process id on that machine.
        user: user that runs it.
        since: time at which it took the lock, ISO 8601.
        command: command line, without credentials in URLs.
        machine: host, boot and process namespace; `pid` is valid only on the same one.
        started: start time of the process, seconds since 1970; needed because process ids are reused.
        ticks: start time since the machine booted, unaffected by changes of the clock; 0 if unknown.
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
        """The calling process."""
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
        """Parse the bytes of `to_json`. Fields that cannot be read get the value for unknown."""
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
        """Whether the process has certainly ended. Only processes of this machine can be checked."""
        if not self.machine or self.machine != machine_id():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # it has ended, but its parent has not waited for it
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
    except (ImportError, KeyError, OSError):  # the user of a container may have no name
        return str(user_id())
