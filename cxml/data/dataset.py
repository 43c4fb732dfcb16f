"""Read a prepared data set: rows in any order, straight from memory-mapped Arrow files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml import storage
from cxml.data.cache import ShardCache
from cxml.data.manifest import PREPARE_AGAIN, DataManifest, ShardInfo
from cxml.data.ragged import Ragged, lengths_to_offsets, range_indices
from cxml.data.schema import EARLIER_TEXT, LABELS_SCHEMA, LIST_COLUMNS, TEXT, TFIDF_COLUMNS, shard_schema
from cxml.data.writer import Examples
from cxml.errors import DataError

_KEEP_TEXT = "Prepare the data with data.keep_text: true."


class ShardedDataset:
    """One split of a prepared data set, N rows.

    Local shards are memory-mapped, so opening is quick and the page cache is shared by all processes of a machine; the
    offsets of tokens and labels (16 bytes a row) are held in memory. Remote shards are copied to the node's cache.
    """

    def __init__(self, url: str, split: str, *, shard: int | None = None) -> None:
        """Open the shards of `split`, or only the one with the number `shard`.

        Raises:
            DataError: there is no data set or no such split, or a shard's size, rows or schema is not as the manifest
                says.
        """
        self.manifest = DataManifest.read(url)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise DataError(url, f"has no split {split!r}", f"Its splits: {known}.")
        self._url = url
        shards = self.manifest.splits[split]
        opened = shards if shard is None else shards[shard : shard + 1]
        paths = _local_paths(url, opened)
        self._batches = [
            batch for info, path in zip(opened, paths, strict=True) for batch in _open_shard(url, info, path)
        ]
        self._row_starts = lengths_to_offsets(np.array([batch.num_rows for batch in self._batches]))

    def __len__(self) -> int:
        """N, the rows."""
        return int(self._row_starts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [N]."""
        return np.diff(self._input_ids.offsets)

    @cached_property
    def label_counts(self) -> np.ndarray:
        """Labels of each row, int64 [N]."""
        return np.diff(self._labels.offsets)

    @cached_property
    def feature_counts(self) -> np.ndarray:
        """Tf-idf terms of each row, int64 [N]."""
        return np.diff(self._tfidf[0].offsets)

    @property
    def has_texts(self) -> bool:
        """Whether the raw texts were kept."""
        return "text" in self._batches[0].schema.names

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """Token ids and labels (both int32) of the rows `indices` int64 [n], in that order."""
        return self._input_ids.gather(indices), self._labels.gather(indices)

    def texts(self, indices: np.ndarray) -> list[str]:
        """Raw texts of the rows `indices` int64 [n]. Raises `DataError` where they were not kept."""
        if not self.has_texts:
            raise DataError(self._url, "the shards hold no texts", _KEEP_TEXT)
        batch_of_row = np.searchsorted(self._row_starts, indices, side="right") - 1
        positions = zip(batch_of_row.tolist(), (indices - self._row_starts[batch_of_row]).tolist(), strict=True)
        return [self._batches[batch].column("text")[row].as_py() for batch, row in positions]

    def examples(self, indices: np.ndarray) -> Examples:
        """All that the shards hold of the rows `indices` int64 [n], ready to be written again."""
        input_ids, labels = self.gather(indices)
        features = self.features(indices)
        return Examples(input_ids, labels, features, self.texts(indices) if self.has_texts else None)

    def features(self, indices: np.ndarray) -> sparse.csr_matrix:
        """Tf-idf of the rows `indices` int64 [n], in that order: CSR float32 [n, F]."""
        terms, weights = (column.gather(indices) for column in self._tfidf)
        shape = (len(indices), self.manifest.num_features)
        return sparse.csr_matrix((weights.values, terms.values, terms.offsets), shape)

    def uids(self) -> np.ndarray:
        """Each row's number in its split's source, int64 [N]."""
        return np.concatenate([batch.column("uid").to_numpy() for batch in self._batches])

    def column(self, name: str) -> Ragged:
        """A whole list column in memory."""
        return _ChunkedLists(self._batches, name).concatenate()

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [N, L]."""
        labels = self._labels.concatenate()
        ones = np.ones(len(labels.values), np.float32)
        return sparse.csr_matrix((ones, labels.values, labels.offsets), (len(self), self.manifest.num_labels))

    def features_csr(self) -> sparse.csr_matrix:
        """L2-normalised tf-idf, CSR float32 [N, F]; a text without a known term has an empty row."""
        indices, values = (self.column(name) for name in TFIDF_COLUMNS)
        shape = (len(self), self.manifest.num_features)
        return sparse.csr_matrix((values.values, indices.values, indices.offsets), shape)

    @cached_property
    def _input_ids(self) -> _ChunkedLists:
        return _ChunkedLists(self._batches, "input_ids")

    @cached_property
    def _tfidf(self) -> list[_ChunkedLists]:
        return [_ChunkedLists(self._batches, name) for name in TFIDF_COLUMNS]

    @cached_property
    def _labels(self) -> _ChunkedLists:
        return _ChunkedLists(self._batches, "labels")


class _ChunkedLists:
    """One list column over all record batches, with one run of offsets over their values end to end."""

    def __init__(self, batches: list[pa.RecordBatch], name: str) -> None:
        columns = [batch.column(name) for batch in batches]
        self._chunks = [column.values.to_numpy() for column in columns]
        self._chunk_starts = lengths_to_offsets(np.array([len(chunk) for chunk in self._chunks]))
        ends = [
            column.offsets.to_numpy()[1:] + start
            for column, start in zip(columns, self._chunk_starts[:-1], strict=True)
        ]
        self.offsets = np.concatenate([np.zeros(1, np.int64), *ends])

    def gather(self, indices: np.ndarray) -> Ragged:
        """The rows `indices`, in that order.

        Rows are visited in storage order, so the only loop is over the record batches that hold one of them, and the
        memory map is read forwards.
        """
        in_storage_order = np.argsort(indices, kind="stable")
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        positions = range_indices(starts[in_storage_order], lengths[in_storage_order])
        found = self._take(positions)

        found_starts = np.empty_like(starts)
        found_starts[in_storage_order] = lengths_to_offsets(lengths[in_storage_order])[:-1]
        return Ragged(found[range_indices(found_starts, lengths)], lengths_to_offsets(lengths))

    def concatenate(self) -> Ragged:
        """All rows."""
        return Ragged(np.concatenate(self._chunks), self.offsets)

    def _take(self, positions: np.ndarray) -> np.ndarray:
        """Values at rising `positions` of the chunks end to end."""
        found = np.empty(len(positions), self._chunks[0].dtype)
        bounds = np.searchsorted(positions, self._chunk_starts)
        for chunk in np.flatnonzero(np.diff(bounds)):
            mine = slice(bounds[chunk], bounds[chunk + 1])
            found[mine] = self._chunks[chunk][positions[mine] - self._chunk_starts[chunk]]
        return found


def read_labels(url: str) -> tuple[list[str], np.ndarray]:
    """Label names [L] and the number of train texts of each label, int64 [L]; row = label id."""
    info = DataManifest.read(url).labels
    table = pa.Table.from_batches(_open_checked(url, info, _local_paths(url, [info])[0], [LABELS_SCHEMA]))
    return table.column("name").to_pylist(), table.column("train_frequency").to_numpy()


def verify(url: str) -> DataManifest:
    """Compare every data file with its checksum in the manifest, which reads all of it.

    Raises:
        DataError: a file is missing, or its size or checksum is wrong; the error names it.
    """
    manifest = DataManifest.read(url)
    for shard in manifest.files():
        file = storage.join(url, shard.file)
        try:
            _check_size(file, shard, storage.size(file))
        except FileNotFoundError as error:
            raise DataError(file, "is named in the manifest but missing", PREPARE_AGAIN) from error
        if storage.sha256(file) != shard.sha256:
            raise DataError(file, "its checksum is not the manifest's", PREPARE_AGAIN)
    return manifest


def _local_paths(url: str, shards: Sequence[ShardInfo]) -> list[Path]:
    """Where the files lie on this machine; remote ones are fetched into the cache."""
    if storage.local_path(url) is None:
        return ShardCache.from_environment().fetch(url, shards)
    return [Path(str(storage.local_path(storage.join(url, shard.file)))) for shard in shards]


def _open_shard(url: str, shard: ShardInfo, path: Path) -> list[pa.RecordBatch]:
    batches = _open_checked(url, shard, path, [shard_schema(text=kind) for kind in (TEXT, EARLIER_TEXT, None)])
    for batch in batches:
        for name in LIST_COLUMNS:
            column = batch.column(name)
            offsets = column.offsets.to_numpy()
            if offsets[0] != 0 or offsets[-1] != len(column.values) or (np.diff(offsets) < 0).any():
                problem = f"the offsets of its column {name} are broken"
                raise DataError(storage.join(url, shard.file), problem, PREPARE_AGAIN)
    return batches


def _open_checked(url: str, shard: ShardInfo, path: Path, schemas: list[pa.Schema]) -> list[pa.RecordBatch]:
    """Record batches of one file at `path`, zero-copy, after checks that cost no reading of its values."""
    file = storage.join(url, shard.file)
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(file, "is named in the manifest but missing", PREPARE_AGAIN) from error
    _check_size(file, shard, size)
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except pa.ArrowInvalid as error:
        raise DataError(file, f"is no Arrow file ({error})", PREPARE_AGAIN) from error
    if reader.schema not in schemas:
        raise DataError(file, f"has another schema than the format's: {reader.schema}", PREPARE_AGAIN)
    rows = sum(batch.num_rows for batch in batches)
    if rows != shard.rows:
        raise DataError(file, f"has {rows} rows, the manifest says {shard.rows}", PREPARE_AGAIN)
    return batches


def _check_size(file: str, shard: ShardInfo, size: int) -> None:
    if size != shard.bytes:
        raise DataError(file, f"has {size} bytes, the manifest says {shard.bytes}", PREPARE_AGAIN)
