"""Validate the values of a shard, so that arrays are never read at invalid indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from cxml import artefacts
from cxml.data.manifest import PREPARE_AGAIN, DataManifest
from cxml.data.ragged import Ragged
from cxml.data.schema import TFIDF_COLUMNS
from cxml.errors import DataError

Check = tuple[str, np.ndarray]
"""A problem, and the rows that have it, bool [N]."""


def check_values(
    batches: Sequence[pa.RecordBatch], manifest: DataManifest, url: str, split: str, first_row: int
) -> None:
    """Check all values of a shard: ranges and order of ids, missing ids, and finite weights.

    Args:
        batches: record batches of the shard, with valid offsets.
        manifest: manifest of the data set at `url`.
        url: name of the data set in error messages.
        split: split of the shard.
        first_row: first row of the shard in its split.

    Raises:
        DataError: a value is not valid; names the split and the row.
    """
    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(url, f"split {split}, from row {first_row} on: {error}", PREPARE_AGAIN) from error
        for problem, wrong_rows in (*_id_checks(batch, manifest), *_feature_checks(batch, manifest)):
            refuse_rows(url, split, first_row, wrong_rows, problem)
        first_row += batch.num_rows


def refuse_rows(url: str, split: str, first_row: int, wrong_rows: np.ndarray, problem: str) -> None:
    """Raise `DataError` for the first invalid row of a range of a split, if any; `wrong_rows` is bool [N]."""
    rows = np.flatnonzero(wrong_rows)
    if len(rows):
        place = f"split {split}, row {first_row + rows[0]}"
        raise DataError(url, f"{place}: {problem} ({len(rows)} such rows in its shard)", PREPARE_AGAIN)


def _id_checks(batch: pa.RecordBatch, manifest: DataManifest) -> Iterator[Check]:
    for name, limit in (("input_ids", manifest.tokenizer.vocab_size), ("labels", manifest.num_labels)):
        column = _ragged(batch, name)
        yield f"{name} is empty", column.lengths == 0
        yield f"{name} are not all in 0..{limit - 1}", _rows_outside(column, limit)
    yield "labels are not sorted and unique", _rows_unsorted(_ragged(batch, "labels"))


def _feature_checks(batch: pa.RecordBatch, manifest: DataManifest) -> Iterator[Check]:
    indices, values = (_ragged(batch, name) for name in TFIDF_COLUMNS)
    yield "tfidf_indices and tfidf_values differ in length", indices.lengths != values.lengths
    limit = manifest.num_features
    yield f"tfidf_indices are not all in 0..{limit - 1}", _rows_outside(indices, limit)
    yield "tfidf_indices are not sorted and unique", _rows_unsorted(indices)
    yield "tfidf_values are not all finite", _rows_where(values, ~np.isfinite(values.values))


def _ragged(batch: pa.RecordBatch, name: str) -> Ragged:
    column = batch.column(name)
    return Ragged(artefacts.as_numpy(column.values), artefacts.as_numpy(column.offsets))


def _rows_outside(column: Ragged, limit: int) -> np.ndarray:
    # As unsigned numbers, negative values exceed any limit, which saves a comparison.
    return _rows_where(column, column.values.view(np.uint32) >= limit)


def _rows_where(column: Ragged, wrong_values: np.ndarray) -> np.ndarray:
    """Rows with an invalid value, bool [N]."""
    wrong_rows = np.zeros(len(column), bool)
    wrong_rows[np.searchsorted(column.offsets, np.flatnonzero(wrong_values), side="right") - 1] = True
    return wrong_rows


def _rows_unsorted(column: Ragged) -> np.ndarray:
    """Rows whose values are not strictly increasing, bool [N]."""
    falls = np.zeros(len(column.values), bool)
    np.less_equal(column.values[1:], column.values[:-1], out=falls[1:])
    falls[column.offsets[:-1][column.lengths > 0]] = False
    return _rows_where(column, falls)
