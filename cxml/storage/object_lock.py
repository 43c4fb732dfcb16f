"""A lock on an object store, built from puts that succeed only if the object does not exist.

The folder `.lock` holds objects numbered from 1. The newest one names the holder. A process takes the lock when it
creates the object of the next number, which succeeds for one process only. The holder rewrites its object every few
seconds. A lock is free if the newest object says `released`, if the process that it names has ended on this machine, or
if it does not change for `EXPIRY_SECONDS` of the watching process's clock. The newest object is never deleted, so
numbers are never reused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid

import psutil

from cxml import storage
from cxml.errors import CxmlError
from cxml.storage.folders import LOCK
from cxml.storage.holder import Holder

_log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
_POLL_SECONDS = 1.0
_EXIT_LOST = 2


class ObjectLock:
    """The lock of a folder on an object store."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = storage.join(url, LOCK)
        self._number = 0
        self._state: dict[str, object] = {}
        self._end = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> Holder | None:
        """Take the lock. Returns None on success, else the holder, which has renewed the lock in the meantime."""
        while True:
            newest = self._newest()
            holder = self._watch(newest) if newest else None
            if holder is not None:
                return holder
            if self._claim(newest + 1):
                return None

    def release(self) -> None:
        """Release the lock."""
        self._end.set()
        if self._heart is not None:
            self._heart.join()
        try:
            if self._newest() == self._number:
                self._write(released=True)
        except CxmlError as error:
            _log.warning("%s stays locked until it expires: %s", self._url, error)

    def _newest(self) -> int:
        """Number of the newest object, 0 if there is none."""
        names = (file.rsplit("/", 1)[-1].removesuffix(".json") for file in storage.list_files(self._folder))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _file(self, number: int) -> str:
        return storage.join(self._folder, f"{number:08d}.json")

    def _watch(self, number: int) -> Holder | None:
        """Watch an object. Returns the holder as soon as the object changes, or None if the lock is free."""
        seen, until = b"", time.monotonic() + EXPIRY_SECONDS
        while time.monotonic() < until:
            try:
                content = storage.read_bytes(self._file(number))
            except FileNotFoundError:
                return None  # a newer one exists
            holder = Holder.from_json(content)
            if b'"released": true' in content or holder.is_dead:
                return None
            if seen and content != seen:
                return holder
            if not seen:
                _log.info("%s is locked by %s. Checking whether that process is alive", self._url, holder)
            seen = content
            time.sleep(_POLL_SECONDS)
        return None

    def _claim(self, number: int) -> bool:
        """Create the object of a number. Returns whether this process created it."""
        state = {**Holder.this_process().to_json(), "token": uuid.uuid4().hex, "beat": 0, "released": False}
        try:
            storage.create(self._file(number), _to_bytes(state))
        except FileExistsError:
            return False
        self._number, self._state = number, state
        self._heart = threading.Thread(target=self._beat, name="cxml-lock", daemon=True)
        self._heart.start()
        for file in storage.list_files(self._folder):
            if file < self._file(number):
                with contextlib.suppress(CxmlError):
                    storage.remove(file)
        return True

    def _write(self, **changes: object) -> None:
        self._state |= changes
        storage.write_atomic(self._file(self._number), _to_bytes(self._state))

    def _beat(self) -> None:
        beat = 0
        while not self._end.wait(BEAT_SECONDS):
            beat += 1
            try:
                if self._newest() > self._number:
                    _end_this_run(self._url)
                self._write(beat=beat)
            except CxmlError as error:  # the store is unreachable for the others too, so they see no lock expire
                _log.warning("Could not renew the lock of %s, retrying: %s", self._url, error)


def _to_bytes(state: dict[str, object]) -> bytes:
    return json.dumps(state).encode()


def _end_this_run(url: str) -> None:
    """End this process and its workers at once, because their writes would mix with those of another run."""
    _log.critical("%s: another command took the lock because this one renewed it too late. Stopping", url)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(_EXIT_LOST)
