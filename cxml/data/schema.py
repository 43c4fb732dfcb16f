"""The Arrow schemas of format version 1 (docs/formats.md describes them)."""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1
LABELS_FILE = "labels.arrow"
VOCABULARY_FILE = "vocabulary.arrow"

LABELS_SCHEMA = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("train_frequency", pa.int64(), nullable=False)]
)
# With a labels file. Data sets without one have no such columns, and are the same bytes as those of earlier releases.
TITLED_LABELS_SCHEMA = pa.schema(
    [
        *LABELS_SCHEMA,
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
    ]
)
VOCABULARY_SCHEMA = pa.schema([("term", pa.string()), ("idf", pa.float64())])


def _list_of(name: str, values: pa.DataType) -> pa.Field:
    return pa.field(name, pa.list_(pa.field("item", values, nullable=False)), nullable=False)


_EXAMPLE_FIELDS = [
    pa.field("uid", pa.int64(), nullable=False),
    _list_of("input_ids", pa.int32()),
    _list_of("labels", pa.int32()),
    _list_of("tfidf_indices", pa.int32()),
    _list_of("tfidf_values", pa.float32()),
]
# 64-bit offsets, because the texts of a record batch may take more than 2 GiB. Earlier releases wrote 32-bit offsets.
TEXT, EARLIER_TEXT = pa.large_string(), pa.string()

TFIDF_COLUMNS = ("tfidf_indices", "tfidf_values")
LIST_COLUMNS = tuple(field.name for field in _EXAMPLE_FIELDS if pa.types.is_list(field.type))


def shard_schema(*, text: pa.DataType | None) -> pa.Schema:
    """Columns of a shard with one row per text; `text` is the type of the optional column of raw texts."""
    return pa.schema([*_EXAMPLE_FIELDS, *([pa.field("text", text, nullable=False)] if text else [])])
