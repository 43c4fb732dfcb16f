"""Staged blocks between the two passes: tokenised, with locally numbered terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxml import artefacts
from cxml.data import Ragged
from cxml.data.terms import COUNTS_SCHEMA, TermRows
from cxml.errors import DataError

_LISTS = ("input_ids", "labels", "term_codes", "term_counts")
_ROWS = pa.schema([(name, pa.large_list(pa.int32())) for name in _LISTS])
_ROWS_WITH_TEXT = _ROWS.append(pa.field("text", pa.large_string()))
_AGAIN = "Delete the folder .progress and prepare the data again."
_LABEL_COUNTS = pa.schema([("label", pa.int64()), ("texts", pa.int64())])


@dataclass(frozen=True)
class StagedBlock:
    """A block with all results that do not depend on other blocks.

    Attributes:
        input_ids: token ids, int32.
        labels: label ids, int32.
        terms: terms of each text.
        texts: raw texts, or None if they are not kept.
    """

    input_ids: Ragged
    labels: Ragged
    terms: TermRows
    texts: Sequence[str] | None


def write_staged(stem: str, block: StagedBlock) -> None:
    """Write a block as three files with the URL prefix `stem`: rows, counts of terms, counts of labels."""
    term_counts = Ragged(block.terms.counts, block.terms.codes.offsets)
    lists = (block.input_ids, block.labels, block.terms.codes, term_counts)
    columns = {name: _to_arrow(rows) for name, rows in zip(_LISTS, lists, strict=True)}
    if block.texts is not None:
        columns["text"] = pa.array(block.texts, pa.large_string())
    schema = _ROWS if block.texts is None else _ROWS_WITH_TEXT
    artefacts.write_sealed_table(f"{stem}.rows.arrow", pa.table(columns, schema=schema))
    artefacts.write_sealed_table(f"{stem}.terms.arrow", block.terms.table())
    labels, texts = np.unique(block.labels.values, return_counts=True)
    artefacts.write_sealed_table(
        f"{stem}.labels.arrow", pa.table([labels.astype(np.int64), texts], schema=_LABEL_COUNTS)
    )


def read_staged(stem: str, num_labels: int) -> StagedBlock:
    """Read a block of `write_staged`. Raises `DataError` if a file is damaged or inconsistent with another."""
    file = f"{stem}.rows.arrow"
    rows = artefacts.read_sealed_table(file, (_ROWS, _ROWS_WITH_TEXT), _AGAIN)
    terms = read_term_counts(stem)["term"].to_pylist()
    if not rows.num_rows:
        raise DataError(file, "contains no rows", _AGAIN)
    input_ids, labels, codes, counts = (_to_ragged(rows[name], file) for name in _LISTS)
    _require_below(labels.values, num_labels, "labels", file)
    _require_below(codes.values, len(terms), "terms", file)
    if not np.array_equal(codes.offsets, counts.offsets):
        raise DataError(file, "does not have a count for each term", _AGAIN)
    texts = rows["text"].to_pylist() if "text" in rows.column_names else None
    return StagedBlock(input_ids, labels, TermRows(terms, codes, counts.values), texts)


def read_term_counts(stem: str) -> pa.Table:
    """The counts of each term in the block (`COUNTS_SCHEMA`). Raises `DataError` if the file is damaged."""
    return artefacts.read_sealed_table(f"{stem}.terms.arrow", (COUNTS_SCHEMA,), _AGAIN)


def read_label_counts(stem: str, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the block and their numbers of texts, int64 each.

    Raises:
        DataError: the file is damaged, or contains a label outside 0..num_labels - 1.
    """
    file = f"{stem}.labels.arrow"
    table = artefacts.read_sealed_table(file, (_LABEL_COUNTS,), _AGAIN)
    labels = table["label"].to_numpy()
    _require_below(labels, num_labels, "labels", file)
    return labels, table["texts"].to_numpy()


def _require_below(values: np.ndarray, count: int, what: str, file: str) -> None:
    if len(values) and not 0 <= values.min() <= values.max() < count:
        raise DataError(file, f"contains {what} outside 0..{count - 1}", _AGAIN)


def _to_arrow(rows: Ragged) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(rows.offsets, pa.int64()), pa.array(rows.values, pa.int32()))


def _to_ragged(column: pa.ChunkedArray, file: str) -> Ragged:
    lists = column.chunk(0)
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise DataError(file, "has lists that do not cover their values", _AGAIN)
    return Ragged(values, offsets)
