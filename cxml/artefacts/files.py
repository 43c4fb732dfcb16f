"""The files that a manifest lists: their allowed locations, and checks of their size and checksum."""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from cxml import storage
from cxml.errors import DataError, StorageError

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}){0,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The cache of the Hugging Face hub stores a file of a repository as a link to a blob next to its snapshots.
_HUB_BLOB = re.compile(r"(\.\./){2,5}blobs/[0-9a-f]{40,64}")


class Entry(Protocol):
    """The entry of a file in a manifest."""

    @property
    def file(self) -> str:
        """Path inside the folder."""
        ...

    @property
    def bytes(self) -> int:
        """Size."""
        ...

    @property
    def sha256(self) -> str:
        """Checksum, in hex."""
        ...


@dataclass(frozen=True)
class FileEntry:
    """A file: its path inside the folder, its size in bytes, its SHA-256 in hex."""

    file: str
    bytes: int
    sha256: str


def entry_problem(entry: Entry) -> str:
    """The problem of an entry whose types are right, or an empty string."""
    if not _PLAIN_PATH.fullmatch(entry.file):
        return f"file name {entry.file[:200]!r} is not a plain path inside the folder"
    if entry.bytes < 1 or not _SHA256.fullmatch(entry.sha256):
        return f"{entry.file}: bytes or sha256 is not a valid value"
    return ""


def local_file(folder: str, name: str, remedy: str) -> Path | None:
    """The path of the file `name` in a local folder; None for a remote folder.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file, or a folder between `folder` and it, is a link or another special file. Only links in the
            cache of the Hugging Face hub are followed.
    """
    path = storage.local_path(folder)
    if path is None:
        return None
    parts = PurePosixPath(name).parts
    for number, part in enumerate(parts, start=1):
        path /= part
        try:
            kind = _kind(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{path}: {error}. Check the path and its permissions.") from error
        is_last = number == len(parts)
        if kind != ("file" if is_last else "folder"):
            problem = f"{path.name} is a {kind}, expected a regular {'file' if is_last else 'folder'}"
            raise DataError(storage.join(folder, name), problem, remedy)
    return path


def open_file(folder: str, entry: Entry, remedy: str) -> BinaryIO:
    """A reader of a file of a local folder.

    Raises:
        DataError: the file is missing or special, or its size differs from the entry.
    """
    where = storage.join(folder, entry.file)
    try:
        path = local_file(folder, entry.file, remedy)
        assert path is not None, "for local folders"
        check_size(where, entry, path.stat().st_size, remedy)
        return path.open("rb")
    except FileNotFoundError as error:
        raise missing(where, remedy) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{where}: {error}. Check the path and its permissions.") from error


def read_file(folder: str, entry: Entry, remedy: str, *, most_bytes: int | None = None) -> bytes:
    """Read a file, checking its size before and its checksum after.

    Raises:
        DataError: the file is missing, special or damaged, or larger than `most_bytes`.
    """
    where = storage.join(folder, entry.file)
    if most_bytes is not None and entry.bytes > most_bytes:
        raise DataError(where, f"has {entry.bytes} bytes, more than the limit of {most_bytes}", remedy)
    try:
        _check_stored_size(folder, entry, remedy)
        content = storage.read_bytes(where)
    except FileNotFoundError as error:
        raise missing(where, remedy) from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise wrong_checksum(where, remedy)
    return content


def verify_file(folder: str, entry: Entry, remedy: str) -> None:
    """Compare a file's size and checksum with its entry, block by block.

    Raises:
        DataError: the file is missing, special or damaged.
    """
    where = storage.join(folder, entry.file)
    try:
        _check_stored_size(folder, entry, remedy)
        checksum = storage.sha256(where)
    except FileNotFoundError as error:
        raise missing(where, remedy) from error
    if checksum != entry.sha256:
        raise wrong_checksum(where, remedy)


def _check_stored_size(folder: str, entry: Entry, remedy: str) -> None:
    """Raise `DataError` if a file is special or its size differs from the entry, without opening it."""
    where = storage.join(folder, entry.file)
    path = local_file(folder, entry.file, remedy)
    check_size(where, entry, storage.size(where) if path is None else path.stat().st_size, remedy)


def check_size(where: str, entry: Entry, size: int, remedy: str) -> None:
    """Raise `DataError` if `size` in bytes differs from the entry."""
    if size != entry.bytes:
        raise DataError(where, f"has {size} bytes, but the manifest lists {entry.bytes}", remedy)


def missing(where: str, remedy: str) -> DataError:
    """The error for a missing file."""
    return DataError(where, "is listed in the manifest but missing", remedy)


def wrong_checksum(where: str, remedy: str) -> DataError:
    """The error for a file whose content differs from its checksum."""
    return DataError(where, "its checksum differs from the manifest", remedy)


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) and _HUB_BLOB.fullmatch(str(path.readlink())) and "snapshots" in path.parts:
        mode = (path.parent / path.readlink()).lstat().st_mode
    kinds = (
        (stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"), (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
    )  # fmt: skip
    return next((name for is_kind, name in kinds if is_kind(mode)), "device")
