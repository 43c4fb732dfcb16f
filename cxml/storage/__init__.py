"""Files anywhere: local paths and fsspec URLs (s3://, gs://, az://, ...) behind a few functions.

A plain path is a URL. Paths are literal: `*`, `?`, `[` and `{` are ordinary characters, never patterns.
A writer of several files writes the data first and one small manifest last (`write_atomic`). Readers trust only the
manifest, so they never use a half-written folder. Error messages mask the credentials in URLs.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from cxml import urls
from cxml.errors import StorageError
from cxml.storage.folders import remove_all, sizes_below
from cxml.storage.opening import filesystem, local_path, with_retries

_READ_BLOCK_BYTES = 4 << 20


def join(url: str, *parts: str) -> str:
    """`url` with further path parts appended, see `cxml.urls.join`."""
    return urls.join(url, *parts)


def exists(url: str) -> bool:
    """Whether a file or folder exists."""
    fs, path = filesystem(url)
    return with_retries(url, lambda: fs.exists(path))


def is_folder(url: str) -> bool:
    """Whether a folder exists."""
    fs, path = filesystem(url)
    return with_retries(url, lambda: fs.isdir(path))


def _refuse_special(url: str) -> None:
    """Refuse to read a pipe, socket or device: it may never end, or block forever without a writer.

    Raises:
        StorageError: `url` is a pipe, socket or device.
    """
    path = local_path(url)
    try:
        mode = 0 if path is None else path.stat().st_mode
    except OSError:
        return  # the error comes from the code that opens it
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StorageError(f"{url} is a pipe, socket or device, not a file. Write its content into a file first.")


def size(url: str) -> int:
    """Bytes of one file."""
    fs, path = filesystem(url)
    return int(with_retries(url, lambda: fs.info(path)["size"]))


def read_bytes(url: str) -> bytes:
    """The whole content of one file."""
    _refuse_special(url)
    fs, path = filesystem(url)
    return with_retries(url, lambda: cast(bytes, fs.cat_file(path)))


def open_read(url: str) -> BinaryIO:
    """A seekable reader of one file. A remote file is read in ranges, and each failed range is retried on its own."""
    _refuse_special(url)
    path = local_path(url)
    if path is None:
        return cast(BinaryIO, io.BufferedReader(_RangeReader(url), _READ_BLOCK_BYTES))
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{url}: {error}. Check the path and its permissions.") from error


def read_small_files(url: str, suffix: str) -> dict[str, bytes]:
    """The contents of all files below `url` whose path ends in `suffix`, by relative path, read in parallel."""
    sizes = {name: size for name, size in file_sizes(url).items() if name.endswith(suffix)}
    fs, root = filesystem(url)
    paths = [posixpath.join(root, name) for name in sizes]
    if not paths:
        return {}
    if local_path(url) is not None:
        for name in sizes:
            _refuse_special(join(url, name))
    contents = with_retries(url, lambda: _cat_all(fs, paths))
    return dict(zip(sizes, contents, strict=True))


def _cat_all(fs: fsspec.AbstractFileSystem, paths: list[str]) -> list[bytes]:
    """The contents of many files, in parallel where the store supports it; `fs.cat` would expand patterns in names."""
    contents = fs.cat_ranges(paths, None, None, on_error="raise")
    for content in contents:
        if isinstance(content, BaseException):  # some versions of fsspec return errors
            raise content
    return contents


def file_sizes(url: str) -> dict[str, int]:
    """The size in bytes of every file below the folder `url`, by relative path; empty if the folder does not exist."""
    fs, root = filesystem(url)
    return with_retries(url, lambda: sizes_below(fs, root))


def list_files(url: str, prefix: str = "") -> list[str]:
    """Sorted URLs of the files directly inside `url` whose names start with `prefix`; empty if there is no folder."""
    names = (name for name, kind in _list(url) if kind != "directory" and name.startswith(prefix))
    return [join(url, name) for name in names]


def list_folders(url: str) -> list[str]:
    """Sorted names of the folders directly inside the folder `url`; empty if the folder does not exist."""
    return [name for name, kind in _list(url) if kind == "directory"]


def _list(url: str) -> list[tuple[str, str]]:
    """Sorted names and kinds of the entries directly inside `url`; empty if the folder does not exist."""
    fs, root = filesystem(url)
    fs.invalidate_cache()  # other processes may have written to it
    try:
        found = with_retries(url, lambda: cast(list[dict[str, Any]], fs.ls(root, detail=True)))
    except FileNotFoundError:
        return []
    entries = [(posixpath.basename(urls.path_of(entry["name"]).rstrip("/")), entry["type"]) for entry in found]
    return sorted(entry for entry in entries if entry[0])


def sha256(url: str) -> str:
    """SHA-256 of one file in hex, read block by block."""
    _refuse_special(url)
    fs, path = filesystem(url)

    def digest() -> str:
        found = hashlib.sha256()
        with fs.open(path, "rb") as stream:
            while block := stream.read(_READ_BLOCK_BYTES):
                found.update(cast(bytes, block))
        return found.hexdigest()

    return with_retries(url, digest)


def write_atomic(url: str, content: bytes | memoryview) -> None:
    """Write one file atomically: readers see all of it or none of it, even if this process is killed.

    On a local disk, a temporary file is written next to it, flushed and renamed. On object stores, one put is atomic.
    """
    path = local_path(url)
    if path is None:
        fs, remote = filesystem(url)
        put = bytes(content)  # does not copy bytes
        with_retries(url, lambda: fs.pipe_file(remote, put))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StorageError(f"{url}: {error}. Check the path and its permissions, then run again.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"{url}: {error}. Free disk space or check the permissions, then run again.") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def create(url: str, content: bytes) -> None:
    """Create one file atomically. If several processes create it, one of them succeeds.

    Raises:
        FileExistsError: the file exists with other content.
    """
    path = local_path(url)
    try:
        if path is not None:
            _create_locally(path, content)
        else:
            fs, remote = filesystem(url)
            with_retries(url, lambda: _create_remotely(fs, remote, content))
    except FileExistsError:
        # If the response to a put was lost, the retry finds its own content.
        if read_bytes(url) != content:
            raise


def _create_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    write_atomic(str(temporary), content)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _create_remotely(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    try:
        fs.pipe_file(path, content, mode="create")
    except OSError as error:
        # Stores report a failed condition differently; s3fs raises an invalid argument.
        if error.errno == errno.EINVAL and fs.exists(path):
            raise FileExistsError(errno.EEXIST, "already exists", path) from error
        raise


def remove(url: str, *, keep_lock: bool = False) -> None:
    """Delete a file, or a folder with its content. Does nothing if it does not exist.

    `keep_lock` keeps the folder's lock (`cxml.storage.locks`), which the caller holds.
    """
    fs, path = filesystem(url)
    with_retries(url, lambda: remove_all(fs, path, keep_lock=keep_lock))


def remove_finished(url: str, last_file: str, *, keep_lock: bool = False) -> None:
    """Delete a folder that is complete only with `last_file`, which goes first, so no reader uses the rest."""
    remove(join(url, last_file))
    remove(url, keep_lock=keep_lock)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder on this machine, which is deleted at the end of the context.

    Raises:
        StorageError: it cannot be created, or the context cannot read or write a file.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except StorageError:
        raise
    except OSError as error:
        remedy = "Free disk space, or set TMPDIR to a folder with more, then run again."
        raise StorageError(f"temporary files: {error}. {remedy}") from error


def write_json(url: str, value: object) -> None:
    """Write `value` as indented JSON, atomically. Keys are sorted, so equal values give equal bytes."""
    write_atomic(url, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def fingerprint(*values: object) -> str:
    """A short hash of JSON-serialisable values. Equal values give equal hashes on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _RangeReader(io.RawIOBase):
    """Reads a remote file in ranges."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._fs, self._path = filesystem(url)
        self._size = size(url)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        start = self._position
        stop = min(start + len(buffer), self._size)
        if stop <= start:
            return 0
        block = with_retries(self._url, lambda: self._read_range(start, stop))
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def _read_range(self, start: int, stop: int) -> bytes:
        block = cast(bytes, self._fs.cat_file(self._path, start=start, end=stop))
        if len(block) != stop - start:
            raise StorageError(f"{self._url}: requested {stop - start} bytes, but the store sent {len(block)}")
        return block
