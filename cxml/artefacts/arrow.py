"""Write Arrow IPC files, and read uncompressed record batches without nulls of a known schema, without a copy."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cxml.errors import DataError

_MAGIC = b"ARROW1\0\0"
_HEADER_SLOT, _COMPRESSION_SLOT = 2, 3


def read_batches(
    content: np.ndarray | bytes, schemas: Sequence[pa.Schema], file: str, remedy: str, *, full: bool = True
) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file, as views of its bytes.

    The file is read from its start, as a stream, because a footer could point to other offsets.

    Args:
        content: the file's bytes, uint8 [n].
        schemas: schemas that the file may have.
        file: name of the file in error messages.
        remedy: how to fix a rejected file, for the error message.
        full: also run the checks that read all values: text is UTF-8, offsets are sorted.

    Raises:
        DataError: the file is broken or compressed, contains nulls, or has another schema.
    """
    if bytes(content[: len(_MAGIC)]) != _MAGIC:
        raise DataError(file, "is not an Arrow file", remedy)
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(content[len(_MAGIC) :])))
        schema = pa.ipc.read_schema(messages.read_next_message())
        if schema not in schemas:
            raise DataError(file, f"its schema is not the schema of the format: {schema}"[:1000], remedy)
        batches = [_batch(message, schema, full) for message in messages]
    except (pa.ArrowException, OSError, StopIteration, struct.error, MemoryError) as error:
        raise DataError(file, f"is not an Arrow file ({str(error)[:200]})", remedy) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(file, f"is broken ({str(error)[:200]})", remedy) from error
    return batches


def arrow_file(table: pa.Table) -> bytes:
    """The bytes of an Arrow file that holds a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_numpy(numbers: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Convert numbers without nulls to a NumPy array. A single chunk is not copied.

    Arrow's own `to_numpy` imports pandas where it is installed, which takes a second and 35 MB.
    """
    dtype = np.dtype(numbers.type.to_pandas_dtype())  # NumPy's, for numbers
    chunks = numbers.chunks if isinstance(numbers, pa.ChunkedArray) else [numbers]
    views = [
        np.frombuffer(chunk.buffers()[1], dtype, len(chunk), chunk.offset * dtype.itemsize) for chunk in chunks if chunk
    ]
    return views[0] if len(views) == 1 else np.concatenate([np.zeros(0, dtype), *views])


def _batch(message: pa.ipc.Message, schema: pa.Schema, full: bool) -> pa.RecordBatch:
    if message.type != "record batch":
        raise ValueError(f"it contains a {message.type}")
    if _is_compressed(message.metadata.to_pybytes()):
        raise ValueError("a record batch is compressed")
    batch = pa.ipc.read_record_batch(message, schema)
    if not batch.num_rows:
        raise ValueError("it contains an empty record batch")
    batch.validate(full=full)
    if any(_num_nulls(column) for column in batch.columns):
        raise ValueError("it contains nulls")
    return batch


def _num_nulls(column: pa.Array) -> int:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return column.null_count + (_num_nulls(column.values) if is_list else 0)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's record batch is compressed, which pyarrow shows only after it decompressed it.

    The metadata is a flatbuffer: each table stores the distance to its list of fields.
    """
    header = _field(metadata, _table_at(metadata, 0), _HEADER_SLOT)
    return _field(metadata, _table_at(metadata, header), _COMPRESSION_SLOT) != 0


def _table_at(buffer: bytes, place: int) -> int:
    return place + struct.unpack_from("<I", buffer, place)[0]


def _field(buffer: bytes, table: int, slot: int) -> int:
    """The offset of a field of a table, 0 if the table does not have it."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, fields)
    place = 4 + 2 * slot
    offset = struct.unpack_from("<H", buffer, fields + place)[0] if place < size else 0
    return table + offset if offset else 0
