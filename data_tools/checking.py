"""Check all that the format promises (docs/formats.md), reading everything."""

from __future__ import annotations

import numpy as np

from cxml.data import DataManifest, Ragged, ShardedDataset, read_labels, verify
from cxml.data.manifest import PREPARE_AGAIN
from cxml.errors import DataError

_NORM_TOLERANCE = 1e-4


def validate(url: str) -> DataManifest:
    """Check the prepared data set under `url`: checksums, schemas, counts, ranges, order and norms.

    Returns:
        Its manifest, for a summary.

    Raises:
        DataError: something is not as the format promises; names the file or split and the row.
    """
    manifest = verify(url)
    for split in manifest.splits:
        dataset = ShardedDataset(url, split)
        _check_ids(url, split, dataset)
        _check_features(url, split, dataset)
    names, frequency = read_labels(url)
    counted = np.bincount(ShardedDataset(url, "train").column("labels").values, minlength=len(names))
    wrong = np.flatnonzero(counted != frequency)
    if len(wrong):
        problem = f"label {wrong[0]} has {counted[wrong[0]]} train texts, {manifest.labels.file} says otherwise"
        raise DataError(url, problem, PREPARE_AGAIN)
    return manifest


def _check_ids(url: str, split: str, dataset: ShardedDataset) -> None:
    manifest = dataset.manifest
    uids = dataset.uids()
    _refuse(url, split, uids != np.arange(len(dataset)), "uid is not the row's number")
    for name, limit in (("input_ids", manifest.tokenizer.vocab_size), ("labels", manifest.num_labels)):
        column = dataset.column(name)
        _refuse(url, split, column.lengths == 0, f"{name} is empty")
        _refuse(url, split, _rows_where(column, (column.values < 0) | (column.values >= limit)),
                f"{name} are not all in 0..{limit - 1}")  # fmt: skip
    _refuse(url, split, _rows_unsorted(dataset.column("labels")), "labels are not sorted and unique")


def _check_features(url: str, split: str, dataset: ShardedDataset) -> None:
    indices, values = dataset.column("tfidf_indices"), dataset.column("tfidf_values")
    _refuse(url, split, indices.lengths != values.lengths, "tfidf_indices and tfidf_values differ in length")
    limit = dataset.manifest.num_features
    _refuse(url, split, _rows_where(indices, (indices.values < 0) | (indices.values >= limit)),
            f"tfidf_indices are not all in 0..{limit - 1}")  # fmt: skip
    _refuse(url, split, _rows_unsorted(indices), "tfidf_indices are not sorted and unique")
    rows = np.repeat(np.arange(len(dataset)), values.lengths)
    norms = np.bincount(rows, values.values.astype(np.float64) ** 2, minlength=len(dataset)) ** 0.5
    off = ~(np.abs(norms - 1) <= _NORM_TOLERANCE) & (values.lengths > 0)  # written so that NaN is off too
    _refuse(url, split, off, "tfidf_values are not of length 1")


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


def _refuse(url: str, split: str, wrong_rows: np.ndarray, problem: str) -> None:
    """Raise for the first wrong row, if any."""
    rows = np.flatnonzero(wrong_rows)
    if len(rows):
        raise DataError(url, f"split {split}, row {rows[0]}: {problem} ({len(rows)} such rows)", PREPARE_AGAIN)
