"""Files that end with the SHA-256 of what comes before: for work that is under way and that no manifest names yet."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from cxml import storage
from cxml.artefacts.arrow import read_batches
from cxml.errors import DataError

_SEAL_BYTES = hashlib.sha256().digest_size


def write_sealed(url: str, content: bytes) -> None:
    """Write a file and its seal, whole or not at all."""
    storage.write_atomic(url, content + hashlib.sha256(content).digest())


def unseal(content: bytes | np.ndarray, file: str, remedy: str) -> memoryview:
    """What was sealed, not copied; `content` is a file's bytes or uint8 [n].

    Raises:
        DataError: the file, which errors name `file`, is damaged.
    """
    view = memoryview(content)  # pyright: ignore[reportArgumentType] - arrays have buffers
    sealed, seal = view[:-_SEAL_BYTES], view[-_SEAL_BYTES:]
    if not len(sealed) or hashlib.sha256(sealed).digest() != seal:
        raise DataError(file, "is damaged: its checksum is not that of its content", remedy)
    return sealed


def write_sealed_table(url: str, table: pa.Table) -> None:
    """Write a table as a sealed Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        if table.num_rows:
            writer.write_table(table.combine_chunks())
    write_sealed(url, sink.getvalue().to_pybytes())


def read_sealed_table(url: str, schemas: tuple[pa.Schema, ...], remedy: str) -> pa.Table:
    """The table in a sealed Arrow file, of one chunk at most. A local file is mapped into memory, not read.

    Raises:
        DataError: the file is missing, special, damaged, or of none of the `schemas`.
        StorageError: it cannot be read.
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
        raise DataError(url, f"holds {len(batches)} record batches, not one", remedy)
    return pa.Table.from_batches(batches, batches[0].schema if batches else schemas[0])
