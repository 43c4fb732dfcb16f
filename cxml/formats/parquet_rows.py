"""Read rows of untrusted Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxml import storage
from cxml.data import most_bytes, refuse_repeated_values
from cxml.errors import DataError
from cxml.formats.rows import require_column

_WRITE_AGAIN = "Write it again."


def read_parquet(url: str, columns: Mapping[str, str], rows: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, from 1, and its values by column.

    Args:
        url: the file.
        columns: columns to read, each with its setting.
        rows: rows to keep in memory at a time.

    Raises:
        DataError: it is not a Parquet file, is damaged, lacks a column, or decompresses to more than a file of its size
            can contain.
    """
    number = 0
    limit = most_bytes(storage.size(url))
    num_bytes = 0
    try:
        with storage.open_read(url) as stream:
            file = pq.ParquetFile(stream)
            for name, setting in columns.items():
                require_column(url, name, setting, file.schema_arrow.names)
            refuse_repeated_values(url, file.metadata, storage.size(url), _WRITE_AGAIN)
            # Dictionary-encoded, so that a repeated text is stored once.
            leaves = (file.schema.column(i) for i in range(len(file.schema)))
            strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            file = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=strings)
            for batch in file.iter_batches(rows, columns=list(columns)):
                num_bytes += sum(map(_unpacked_bytes, batch.columns))
                if num_bytes > limit:
                    raise DataError(url, f"unpacks to {num_bytes} bytes or more, too many for text", _WRITE_AGAIN)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:  # OverflowError: dates
        if isinstance(error, storage.StorageError):
            raise
        problem = f"cannot be read as a Parquet file of UTF-8 text ({str(error)[:500]})"
        raise DataError(url, problem, _WRITE_AGAIN) from error


def _unpacked_bytes(column: pa.Array) -> int:
    """Bytes of the values of a column without dictionary encoding."""
    if isinstance(column, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        return column.nbytes + _unpacked_bytes(column.flatten())
    if not isinstance(column, pa.DictionaryArray):
        return column.nbytes
    if not pa.types.is_string(column.dictionary.type) and not pa.types.is_large_string(column.dictionary.type):
        return len(column) * 8
    lengths = pc.call_function("binary_length", [column.dictionary])
    return pc.call_function("sum", [lengths.take(column.indices)]).as_py() or 0
