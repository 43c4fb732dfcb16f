"""Files that end with the SHA-256 of their content: for unfinished work that no manifest lists yet."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from cxml import storage
from cxml.artefacts.arrow import read_batches
from cxml.errors import DataError

_SEAL_BYTES = hashlib.sha256().digest_size


def write_sealed(url: str, content: bytes) -> None:
    """Write a file with its checksum at the end, atomically."""
    storage.write_atomic(url, content + hashlib.sha256(content).digest())


def unseal(content: bytes | np.ndarray, file: str, remedy: str) -> memoryview:
    """Check and remove the checksum at the end, without a copy; `content` is a file's bytes or uint8 [n].

    Raises:
        DataError: the file is damaged; the error names it `file`.
    """
    view = memoryview(content)  # pyright: ignore[reportArgumentType] - arrays have buffers
    sealed, seal = view[:-_SEAL_BYTES], view[-_SEAL_BYTES:]
    if not len(sealed) or hashlib.sha256(sealed).digest() != seal:
        raise DataError(file, "is damaged: its checksum does not match its content", remedy)
    return sealed


def write_sealed_table(url: str, table: pa.Table) -> None:
    """Write a table as a sealed Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        if table.num_rows:
            writer.write_table(table.combine_chunks())
    write_sealed(url, sink.getvalue().to_pybytes())


def read_sealed_table(url: str, schemas: tuple[pa.Schema, ...], remedy: str) -> pa.Table:
    """The table in a sealed Arrow file, with at most one chunk. A local file is memory-mapped.

    Raises:
        DataError: the file is missing, special or damaged, or has none of the `schemas`.
        StorageError: the file cannot be read.
    """
    path = storage.local_path(url)
    try:
        if path is None or not path.is_file() or not path.stat().st_size:
            content = storage.read_bytes(url)
        else:
            content = np.memmap(path, np.uint8, "r")
    except FileNotFoundError as error:
        raise DataError(url, "is missing", remedy) from error
    batches = read_batches(np.frombuffer(unseal(content, url, remedy), np.uint8), schemas, url, remedy)
    if len(batches) > 1:
        raise DataError(url, f"contains {len(batches)} record batches, expected one", remedy)
    return pa.Table.from_batches(batches, batches[0].schema if batches else schemas[0])
