"""A cache of remote shards on the node's disk: each shard is downloaded once per node, within a size limit.

The folder is CXML_CACHE (default: `cxml` in the user's cache folder), the limit CXML_CACHE_GIB (default: 100). Files
are named by their SHA-256, so data sets share them and damaged downloads are never kept. The least recently opened
files are evicted first. Files are returned open, because a process can keep reading a deleted file that it has open.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from cxml import storage
from cxml.data.manifest import PREPARE_AGAIN, ShardInfo
from cxml.errors import ConfigError, DataError, StorageError

_PARALLEL_DOWNLOADS = 8
_BLOCK_BYTES = 8 << 20


def cache_folder() -> Path:
    """CXML_CACHE, or `cxml` in the user's cache folder. Raises `ConfigError` if there is neither."""
    given = os.environ.get("CXML_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxml"
    except RuntimeError as error:
        raise ConfigError("CXML_CACHE", "", "is not set, and the user has no home", "Set it to a folder.") from error


@dataclass(frozen=True)
class ShardCache:
    """A folder of at most `max_bytes`."""

    folder: Path
    max_bytes: int

    @classmethod
    def from_environment(cls) -> ShardCache:
        """The node's cache.

        Raises:
            ConfigError: CXML_CACHE_GIB is not a number above 0, or CXML_CACHE is not set and the user has no home.
        """
        given = os.environ.get("CXML_CACHE_GIB", "100")
        try:
            gib = float(given)
        except ValueError:
            gib = 0.0
        if not 0 < gib < float("inf"):
            raise ConfigError("CXML_CACHE_GIB", given, "is not a number above 0", "Set it to GiB, such as 100.")
        return cls(cache_folder(), int(gib * 2**30))

    def fetch(self, url: str, shards: Sequence[ShardInfo]) -> list[BinaryIO]:
        """Open local copies of files of the data set under `url`, and download missing ones.

        Raises:
            ConfigError: the files exceed the size limit.
            DataError: the checksum of a download differs from the manifest.
            StorageError: the store or the disk failed; names the file.
        """
        needed = sum(shard.bytes for shard in shards)
        if needed > self.max_bytes:
            problem = f"{url} needs {needed} bytes of the node's cache, which is limited to {self.max_bytes}"
            raise ConfigError("CXML_CACHE_GIB", self.max_bytes / 2**30, problem, "Increase it, or copy the data set.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            problem = f"{url}: cannot be cached in {self.folder} ({error})"
            raise StorageError(f"{problem}. Set CXML_CACHE to a writable folder.") from error
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
            return list(pool.map(lambda shard: self._fetch_one(url, shard), shards))

    def path(self, shard: ShardInfo) -> Path:
        """The path of the cached copy of a file, which may not exist."""
        return self.folder / f"{shard.sha256}.arrow"

    def _fetch_one(self, url: str, shard: ShardInfo) -> BinaryIO:
        path = self.path(shard)
        lock = path.with_suffix(".lock")
        with FileLock(lock):
            lock.touch()  # marks it as recently used
            opened = _open_whole(path, shard)
            if opened is None:
                self._make_room(shard.bytes)
                opened = self._download(storage.join(url, shard.file), shard, path)
        return opened

    def _download(self, file: str, shard: ShardInfo, path: Path) -> BinaryIO:
        digest = hashlib.sha256()
        temporary = path.with_suffix(".part")  # not shared, because the caller holds the lock
        try:
            with temporary.open("wb") as target, storage.open_read(file) as source:
                size = 0
                while size <= shard.bytes and (block := source.read(_BLOCK_BYTES)):
                    digest.update(block)
                    target.write(block)
                    size += len(block)
            if digest.hexdigest() != shard.sha256:
                raise DataError(file, "its checksum differs from the manifest", PREPARE_AGAIN)
            with self._evicting():
                temporary.replace(path)
                opened = path.open("rb")
        except FileNotFoundError as error:
            raise DataError(file, "is listed in the manifest but missing", PREPARE_AGAIN) from error
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            remedy = "Free space there, or set CXML_CACHE to another folder."
            raise StorageError(f"{file}: cannot be cached in {self.folder} ({error}). {remedy}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return opened

    def _make_room(self, wanted: int) -> None:
        """Delete the least recently opened files until `wanted` bytes fit."""
        with self._evicting():
            files = sorted((_opened_ns(path), path.stat().st_size, path) for path in self.folder.glob("*.arrow"))
            held = sum(size for _, size, _ in files)
            for _, size, path in files:
                if held + wanted <= self.max_bytes:
                    return
                with contextlib.suppress(PermissionError):  # Windows cannot delete open files
                    path.unlink(missing_ok=True)
                    held -= size

    def _evicting(self) -> FileLock:
        """The lock for deleting files, and for creating and opening a file without a deletion in between."""
        return FileLock(self.folder / "evict.lock")


def _opened_ns(path: Path) -> int:
    """The time of the last fetch of a file: that of its lock, because the file's own time detects changes."""
    lock = path.with_suffix(".lock")
    return lock.stat().st_mtime_ns if lock.exists() else 0


def _open_whole(path: Path, shard: ShardInfo) -> BinaryIO | None:
    """The cached copy if it exists with the right size."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return None
    if os.fstat(opened.fileno()).st_size == shard.bytes:
        return opened
    opened.close()
    return None
