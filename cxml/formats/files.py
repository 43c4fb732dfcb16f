"""Find raw files with or without a compression suffix, open them, and identify them by their content."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from cxml import storage
from cxml.data import VALIDATION, most_bytes
from cxml.errors import DataError
from cxml.formats.reader import SPLITS
from cxml.urls import path_of

STDIN = "-"
VALIDATION_NAMES = (VALIDATION, "valid", "val", "dev")
"""Names of files of validation texts."""
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}


def find_file(folder: str, names: Sequence[str]) -> str | None:
    """URL of the first of `names` in `folder`, plain or compressed; None if none exists."""
    for name in names:
        for suffix in ("", *_COMPRESSIONS):
            url = storage.join(folder, name + suffix)
            if storage.exists(url):
                return url
    return None


def require_file(folder: str, names: Sequence[str]) -> str:
    """`find_file` that raises a `DataError` if the file is missing."""
    url = find_file(folder, names)
    if url is None:
        others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
        remedy = "Put it into data.source.path, plain or compressed (.gz, .zst, .bz2); docs/formats.md lists the files."
        raise DataError(storage.join(folder, names[0]), f"is missing{others}", remedy)
    return url


def find_splits(folder: str, suffix: str) -> dict[str, list[str]]:
    """The files of each split, plain or compressed: `train.jsonl`, or several `train*.jsonl` sorted by name.

    The same for `test`, and for validation texts (`VALIDATION_NAMES`) if there are any.

    Raises:
        DataError: the train or test files are missing, or validation files have several names.
    """
    files = {split: _find_parts(folder, split, suffix) for split in SPLITS}
    found = {split: parts or [require_file(folder, [f"{split}{suffix}"])] for split, parts in files.items()}
    named = {name: _find_parts(folder, name, suffix) for name in VALIDATION_NAMES}
    validation = [
        [url for url in parts if not posixpath.basename(path_of(url))[len(name)].isalpha()]  # not values.csv
        for name, parts in named.items()
    ]
    first, *others = [parts for parts in validation if parts] or [[]]
    if others:
        problem = f"contains validation texts, like {posixpath.basename(path_of(first[0]))}"
        raise DataError(others[0][0], problem, "Use one name for all files of validation texts, such as validation-1.")
    return {**found, VALIDATION: first} if first else found


def _find_parts(folder: str, name: str, suffix: str) -> list[str]:
    whole = find_file(folder, [f"{name}{suffix}"])
    if whole is not None:
        return [whole]
    return [url for url in storage.list_files(folder, name) if without_compression(url).endswith(suffix)]


def without_compression(url: str) -> str:
    """The path of a file without a compression suffix."""
    path = path_of(url)
    stem, extension = posixpath.splitext(path)
    return stem if extension.lower() in _COMPRESSIONS else path


def read_content(url: str, block_bytes: int = 4 << 20) -> Iterator[bytes]:
    """The decompressed content, block by block; `-` is standard input.

    Raises:
        DataError: the compressed stream is damaged or truncated, or decompresses to implausibly much data.
    """
    if url == STDIN:
        while block := sys.stdin.buffer.read(block_bytes):
            yield block
        return
    compression = _COMPRESSIONS.get(posixpath.splitext(path_of(url))[1].lower())
    with storage.open_read(url) as stream:
        if compression is None:
            while block := stream.read(block_bytes):
                yield block
            return
        with pa.input_stream(stream, compression=compression) as plain:
            num_bytes = 0
            while block := _decompress(url, plain, block_bytes):
                num_bytes += len(block)
                if num_bytes > most_bytes(stream.tell()):
                    problem = f"its first {stream.tell()} bytes unpack to {num_bytes} or more, too many for text"
                    raise DataError(url, problem, "Decompress it, and check its content.")
                yield block


def _decompress(url: str, stream: pa.NativeFile, size: int) -> bytes:
    try:
        return stream.read(size)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, storage.StorageError):
            raise
        raise DataError(url, f"cannot be decompressed ({error})", "Copy or download the file again.") from error


def file_facts(folder: str, urls: Sequence[str]) -> dict[str, Any]:
    """Size and SHA-256 of each file, which identify the content."""
    inside = path_of(folder)
    files = {
        path_of(url).removeprefix(inside).lstrip("/"): {"bytes": storage.size(url), "sha256": storage.sha256(url)}
        for url in urls
    }
    return {"files": files}
