"""One writer per folder: `locked` refuses a second command that writes to the same output, and names the first.

On a disk the lock is the operating system's, on the file `.lock` in the folder: it ends with its process, however that
ends. An object store has no such lock; `cxml.storage.object_lock` makes one of small objects with a heartbeat.
Commands that only read need no lock. Of the processes of one job only the one that leads takes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from cxml import storage, urls
from cxml.errors import InUseError
from cxml.operating_system import call_in_forked_children, lock_file, open_lock_file, read_at
from cxml.storage.folders import LOCK
from cxml.storage.holder import Holder
from cxml.storage.object_lock import ObjectLock

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
# What file systems answer that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[str, int] = {}
"""The thread that holds the lock of each folder."""
_open_files: set[int] = set()


class Lock(Protocol):
    """The lock of one folder."""

    def acquire(self) -> Holder | None:
        """Take it; None, or who holds it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


@contextlib.contextmanager
def locked(url: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be. A thread may take a lock that it holds once more.

    Args:
        url: path or fsspec URL of the folder.
        wait: wait for the other command to end; else it is named in an error.

    Raises:
        InUseError: another command writes to the folder.
        StorageError: the folder cannot be written.
    """
    key = _key(url)
    if _held.get(key) == threading.get_ident():
        yield
        return
    path = storage.local_path(url)
    lock: Lock = ObjectLock(url) if path is None else _FileLock(path)
    _acquire(lock, url, wait=wait)
    _held[key] = threading.get_ident()
    try:
        yield
    finally:
        del _held[key]
        lock.release()


def _key(url: str) -> str:
    path = storage.local_path(url)
    return urls.masked(url).rstrip("/") if path is None else str(path.resolve())


def _acquire(lock: Lock, url: str, *, wait: bool) -> None:
    is_told = False
    while (holder := lock.acquire()) is not None:
        if not wait:
            raise InUseError(
                f"{url} is in use: {holder} writes to it. Wait for it to end, stop it, or name another folder."
            )
        if not is_told:
            _log.info("Waiting for %s, which writes to %s", holder, url)
            is_told = True
        time.sleep(_POLL_SECONDS)


class _FileLock:
    """A lock of the operating system on a file that is there while the lock is held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / LOCK
        self._descriptor: int | None = None
        self._made_folder = False

    def acquire(self) -> Holder | None:
        try:
            self._made_folder = self._made_folder or not self._folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._try()
        except storage.StorageError:
            raise
        except OSError as error:
            raise storage.StorageError(f"{self._folder}: {error}. Check the path and its permissions.") from error

    def _try(self) -> Holder | None:
        while True:
            descriptor = self._open()
            try:
                lock_file(descriptor)
            except BlockingIOError:
                holder = Holder.from_json(read_at(descriptor, 1 << 16, 0))
                os.close(descriptor)
                return holder
            except OSError as error:
                os.close(descriptor)
                if error.errno not in _NO_LOCKS:
                    raise
                _log.warning("%s has no locks: make sure that no other command writes there", self._folder)
                return None
            if self._is_current(descriptor):
                self._keep(descriptor)
                return None
            os.close(descriptor)  # who held it before has deleted the file since it was opened

    def _open(self) -> int:
        """The lock file, made if need be. What is written into it, and the right to, must reach no other file."""
        with contextlib.suppress(FileNotFoundError):
            self._require_lock_file(self._file.lstat())
        descriptor = open_lock_file(self._file)
        try:
            self._require_lock_file(os.fstat(descriptor))
        except storage.StorageError:
            os.close(descriptor)
            raise
        return descriptor

    def _require_lock_file(self, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:  # 0: its holder has just deleted it
            return
        kind = (
            "a folder, such as a copy from an object store holds," if stat.S_ISDIR(found.st_mode) else "a link or pipe"
        )
        raise storage.StorageError(
            f"{self._file}: this is {kind} and not a lock file. Delete it if no other command writes there."
        )

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._file.stat())
        except FileNotFoundError:
            return False

    def _keep(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(Holder.this_process().to_json(), indent=2).encode())
        with contextlib.suppress(OSError):  # another user's
            self._file.chmod(0o666)  # where users share a folder, each may have to take over what another left
        self._descriptor = descriptor
        _open_files.add(descriptor)

    def release(self) -> None:
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._file.unlink()
        _open_files.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        if self._made_folder:
            with contextlib.suppress(OSError):  # it holds something now
                self._folder.rmdir()


def _forget_in_child() -> None:
    """A forked child would keep the locks of a parent that has died."""
    for descriptor in _open_files:
        os.close(descriptor)
    _open_files.clear()
    _held.clear()


call_in_forked_children(_forget_in_child)
