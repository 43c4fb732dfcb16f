"""Check all that the format promises (docs/formats.md), reading everything, one shard at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cxml.data import DataManifest, Ragged, ShardedDataset, read_labels, verify
from cxml.data.manifest import PREPARE_AGAIN
from cxml.errors import DataError

_NORM_TOLERANCE = 1e-4

Check = tuple[str, np.ndarray]
"""What would be wrong, and for which rows it is, bool [N]."""


def validate(url: str) -> DataManifest:
    """Check the prepared data set under `url`: checksums, schemas, counts, ranges, order and norms.

    Returns:
        Its manifest, for a summary.

    Raises:
        DataError: something is not as the format promises; names the file or split and the row.
    """
    manifest = verify(url)
    frequency = np.zeros(manifest.num_labels, np.int64)
    for split, shards in manifest.splits.items():
        first_row = 0
        for number in range(len(shards)):
            shard = ShardedDataset(url, split, shard=number)
            for problem, wrong_rows in (*_id_checks(shard, first_row), *_feature_checks(shard)):
                _refuse(url, split, first_row, wrong_rows, problem)
            if split == "train":
                frequency += np.bincount(shard.column("labels").values, minlength=len(frequency))
            first_row += len(shard)
    wrong = np.flatnonzero(read_labels(url)[1] != frequency)
    if len(wrong):
        problem = f"label {wrong[0]} has {frequency[wrong[0]]} train texts, {manifest.labels.file} says otherwise"
        raise DataError(url, problem, PREPARE_AGAIN)
    return manifest


def _id_checks(shard: ShardedDataset, first_row: int) -> Iterator[Check]:
    manifest = shard.manifest
    yield "uid is not the row's number", shard.uids() != np.arange(first_row, first_row + len(shard))
    for name, limit in (("input_ids", manifest.tokenizer.vocab_size), ("labels", manifest.num_labels)):
        column = shard.column(name)
        yield f"{name} is empty", column.lengths == 0
        outside = (column.values < 0) | (column.values >= limit)
        yield f"{name} are not all in 0..{limit - 1}", _rows_where(column, outside)
    yield "labels are not sorted and unique", _rows_unsorted(shard.column("labels"))


def _feature_checks(shard: ShardedDataset) -> Iterator[Check]:
    indices, values = shard.column("tfidf_indices"), shard.column("tfidf_values")
    yield "tfidf_indices and tfidf_values differ in length", indices.lengths != values.lengths
    limit = shard.manifest.num_features
    outside = (indices.values < 0) | (indices.values >= limit)
    yield f"tfidf_indices are not all in 0..{limit - 1}", _rows_where(indices, outside)
    yield "tfidf_indices are not sorted and unique", _rows_unsorted(indices)
    rows = np.repeat(np.arange(len(shard)), values.lengths)
    norms = np.bincount(rows, values.values.astype(np.float64) ** 2, minlength=len(shard)) ** 0.5
    off = ~(np.abs(norms - 1) <= _NORM_TOLERANCE) & (values.lengths > 0)  # written so that NaN is off too
    yield "tfidf_values are not of length 1", off


def _rows_where(column: Ragged, wrong_values: np.ndarray) -> np.ndarray:
    """Rows that hold a wrong value, bool [N]."""
    rows = np.repeat(np.arange(len(column)), column.lengths)
    return np.bincount(rows[wrong_values], minlength=len(column)) > 0


def _rows_unsorted(column: Ragged) -> np.ndarray:
    """Rows whose values do not rise strictly, bool [N]."""
    falls = np.zeros(len(column.values), bool)
    falls[1:] = np.diff(column.values) <= 0
    falls[column.offsets[:-1][column.lengths > 0]] = False
    return _rows_where(column, falls)


def _refuse(url: str, split: str, first_row: int, wrong_rows: np.ndarray, problem: str) -> None:
    """Raise for the first wrong row of a shard, if any."""
    rows = np.flatnonzero(wrong_rows)
    if len(rows):
        place = f"split {split}, row {first_row + rows[0]}"
        raise DataError(url, f"{place}: {problem} ({len(rows)} such rows in its shard)", PREPARE_AGAIN)
