"""One writer per folder: `locked` raises an error if another command writes to the same output, and names it.

On a disk, the operating system locks the file `.lock` in the folder and releases it when the process ends for any
reason. Object stores have no file locks; `cxml.storage.object_lock` builds one from small objects with a heartbeat.
Commands that only read need no lock. In a job of several processes only the leading one takes the lock.
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
# Error codes of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[str, int] = {}
"""The thread that holds the lock of each folder."""
_open_files: set[int] = set()


class Lock(Protocol):
    """The lock of one folder."""

    def acquire(self) -> Holder | None:
        """Take the lock. Returns None on success, else the holder."""
        ...

    def release(self) -> None:
        """Release the lock."""
        ...


@contextlib.contextmanager
def locked(url: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is created if needed. The lock is reentrant within a thread.

    Args:
        url: path or fsspec URL of the folder.
        wait: wait until the other command ends, instead of raising an error.

    Raises:
        InUseError: another command writes to the folder.
        StorageError: the folder is not writable.
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
    """A lock of the operating system on a file that exists while the lock is held."""

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
                _log.warning("%s: the file system has no locks. Let no other command write there", self._folder)
                return None
            if self._is_current(descriptor):
                self._keep(descriptor)
                return None
            os.close(descriptor)  # the previous holder deleted the file after it was opened here

    def _open(self) -> int:
        """Open the lock file, created if needed. It must not be a link: writes and chmod would reach another file."""
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
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:  # 0: its holder just deleted it
            return
        kind = "a folder (as in a copy of an object store)" if stat.S_ISDIR(found.st_mode) else "a link or pipe"
        raise storage.StorageError(
            f"{self._file} is {kind}, not a lock file. Delete it if no other command writes to this folder."
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
        with contextlib.suppress(OSError):  # the file belongs to another user
            self._file.chmod(0o666)  # users who share a folder take over each other's stale locks
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
            with contextlib.suppress(OSError):  # the folder is no longer empty
                self._folder.rmdir()


def _forget_in_child() -> None:
    """Forget all locks in a forked child, which would keep them after the parent has died."""
    for descriptor in _open_files:
        os.close(descriptor)
    _open_files.clear()
    _held.clear()


call_in_forked_children(_forget_in_child)
