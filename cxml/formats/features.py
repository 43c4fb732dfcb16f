"""Column features and Arrow files of Hugging Face datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxml import storage
from cxml.data import most_bytes
from cxml.errors import DataError
from cxml.formats.rows import require_column
from cxml.urls import path_of

_WRITE_AGAIN = "Write it again: as Parquet, or with datasets.Dataset.save_to_disk."
_METADATA = b"huggingface"


def stored_schema(url: str) -> pa.Schema:
    """The schema of a Parquet file or of an Arrow stream.

    Raises:
        DataError: the file is neither.
    """
    is_parquet = path_of(url).lower().endswith(".parquet")
    try:
        with storage.open_read(url) as stream:
            return pq.read_schema(stream) if is_parquet else pa.ipc.open_stream(stream).schema
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, storage.StorageError):
            raise
        kind = "a Parquet file" if is_parquet else "an Arrow stream"
        raise DataError(url, f"cannot be read as {kind} ({str(error)[:300]})", _WRITE_AGAIN) from error


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Class names of a column of class numbers, or of lists of them; None for other columns."""
    try:
        feature = json.loads((schema.metadata or {})[_METADATA])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(feature, list) and feature:
        (feature, *_) = feature
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else None


def read_arrow(url: str, columns: Mapping[str, str], rows: int) -> Iterator[tuple[int, dict[str, Any]]]:  # noqa: ARG001
    """`read_parquet` for an Arrow stream of `datasets.Dataset.save_to_disk`, read batch by batch.

    Raises:
        DataError: it is not an Arrow stream, or lacks a column.
    """
    number = num_bytes = 0
    try:
        with storage.open_read(url) as stream:
            reader = pa.ipc.open_stream(stream)
            for name, setting in columns.items():
                require_column(url, name, setting, reader.schema.names)
            for batch in reader:
                batch.validate(full=True)
                num_bytes += batch.nbytes
                if num_bytes > most_bytes(storage.size(url)):
                    raise DataError(url, f"unpacks to {num_bytes} bytes or more, too many for text", _WRITE_AGAIN)
                for row in batch.select(list(columns)).to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, storage.StorageError):
            raise
        raise DataError(url, f"cannot be read as an Arrow stream ({str(error)[:300]})", _WRITE_AGAIN) from error
