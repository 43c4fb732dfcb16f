"""Validate a data set against the format (docs/formats.md), reading all files one shard at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cxml.data import DataManifest, ShardedDataset, read_label_table, read_vocabulary, verify
from cxml.data.manifest import PREPARE_AGAIN
from cxml.data.values import refuse_rows
from cxml.errors import DataError

_NORM_TOLERANCE = 1e-4


def validate(url: str) -> DataManifest:
    """Validate the prepared data set under `url`: checksums, schemas, counts, ranges, order and norms.

    Returns:
        Its manifest, for a summary.

    Raises:
        DataError: the data set violates the format; names the file or split and the row.
    """
    manifest = verify(url)
    if manifest.vocabulary is not None:
        read_vocabulary(url)
    frequency = np.zeros(manifest.num_labels, np.int64)
    for split, shards in manifest.splits.items():
        first_row = 0
        for number in range(len(shards)):
            shard = ShardedDataset(url, split, shard=number)
            for problem, wrong_rows in _checks(shard, first_row):
                refuse_rows(url, split, first_row, wrong_rows, problem)
            if split == "train":
                frequency += np.bincount(shard.column("labels").values, minlength=len(frequency))
            first_row += len(shard)
    wrong = np.flatnonzero(read_label_table(url).frequency != frequency)
    if len(wrong):
        problem = f"label {wrong[0]} has {frequency[wrong[0]]} train texts, but {manifest.labels.file} differs"
        raise DataError(url, problem, PREPARE_AGAIN)
    return manifest


def _checks(shard: ShardedDataset, first_row: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the checks that readers do not need, with the rows that violate them, bool [N]."""
    yield "uid is not the row's number", shard.uids() != np.arange(first_row, first_row + len(shard))
    values = shard.column("tfidf_values")
    rows = np.repeat(np.arange(len(shard)), values.lengths)
    norms = np.bincount(rows, values.values.astype(np.float64) ** 2, minlength=len(shard)) ** 0.5
    yield "tfidf_values are not of length 1", (np.abs(norms - 1) > _NORM_TOLERANCE) & (values.lengths > 0)
