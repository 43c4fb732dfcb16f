"""Read a prepared data set: rows in any order from memory-mapped Arrow files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml import artefacts, storage
from cxml.artefacts import MappedFile
from cxml.data.cache import ShardCache
from cxml.data.manifest import PREPARE_AGAIN, DataManifest, ShardInfo
from cxml.data.ragged import Ragged, lengths_to_offsets, range_indices
from cxml.data.schema import (
    EARLIER_TEXT,
    LABELS_SCHEMA,
    LIST_COLUMNS,
    TEXT,
    TFIDF_COLUMNS,
    TITLED_LABELS_SCHEMA,
    VOCABULARY_SCHEMA,
    shard_schema,
)
from cxml.data.terms import Vocabulary, checked_vocabulary
from cxml.data.titles import LabelTitles, shown_labels
from cxml.data.values import check_values
from cxml.data.verification import Verification
from cxml.data.writer import Examples
from cxml.errors import DataError
from cxml.operating_system import allow_open_files

_KEEP_TEXT = "Prepare the data with data.keep_text: true."


class ShardedDataset:
    """One split of a prepared data set, N rows.

    Local shards are memory-mapped, so opening is fast and all processes of a machine share the page cache. The offsets
    of tokens and labels (16 bytes per row) are kept in memory. Remote shards are copied to the node's cache.

    Opening checks sizes, schemas and offsets. The first access to values waits for the verification of checksums and
    values of all files on this node. Every method that returns values raises `DataError` if they violate the format.
    `start_verification` verifies in the background.
    """

    def __init__(self, url: str, split: str, *, shard: int | None = None) -> None:
        """Open the shards of `split`, or only the one with the number `shard`.

        Raises:
            DataError: the data set or split does not exist, or a shard's size, rows or schema differ from the manifest.
        """
        self.manifest = DataManifest.read(url)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise DataError(url, f"has no split {split!r}", f"Its splits: {known}.")
        self._url = url
        shards = self.manifest.splits[split]
        first = 0 if shard is None else shard
        opened = shards if shard is None else shards[shard : shard + 1]
        files = _map_files(url, opened)
        batches_of = [_open_shard(info, file) for info, file in zip(opened, files, strict=True)]
        first_rows = lengths_to_offsets(np.array([info.rows for info in shards]))[first:]

        def check(number: int) -> None:
            check_values(batches_of[number], self.manifest, url, split, int(first_rows[number]))

        facts = self.manifest
        limits = f"{facts.tokenizer.vocab_size} {facts.num_labels} {facts.num_features}"
        self._verification = Verification(files, check, limits)
        self._batches = [batch for batches in batches_of for batch in batches]
        self._row_starts = lengths_to_offsets(np.array([batch.num_rows for batch in self._batches]))

    def start_verification(self) -> None:
        """Start to verify the files in the background, to shorten the wait of the first access."""
        self._verification.start()

    def __len__(self) -> int:
        """N, the rows."""
        return int(self._row_starts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [N]."""
        return np.diff(self._input_ids.offsets)

    @property
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
        """Raw texts of the rows `indices` int64 [n]. Raises `DataError` if they were not kept."""
        if not self.has_texts:
            raise DataError(self._url, "the shards contain no texts", _KEEP_TEXT)
        self._verification.wait()
        batch_of_row = np.searchsorted(self._row_starts, indices, side="right") - 1
        positions = zip(batch_of_row.tolist(), (indices - self._row_starts[batch_of_row]).tolist(), strict=True)
        return [self._batches[batch].column("text")[row].as_py() for batch, row in positions]

    def examples(self, indices: np.ndarray) -> Examples:
        """All columns of the rows `indices` int64 [n], in the form for writing."""
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
        self._verification.wait()
        return np.concatenate([artefacts.as_numpy(batch.column("uid")) for batch in self._batches])

    def column(self, name: str) -> Ragged:
        """A whole list column in memory."""
        return self._lists(name).concatenate()

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [N, L]."""
        return indicators(self._labels.concatenate(), self.manifest.num_labels)

    def features_csr(self) -> sparse.csr_matrix:
        """L2-normalised tf-idf, CSR float32 [N, F]; a text without a known term has an empty row."""
        indices, values = (self.column(name) for name in TFIDF_COLUMNS)
        shape = (len(self), self.manifest.num_features)
        return sparse.csr_matrix((values.values, indices.values, indices.offsets), shape)

    @cached_property
    def _input_ids(self) -> _ChunkedLists:
        return self._lists("input_ids")

    @cached_property
    def _tfidf(self) -> list[_ChunkedLists]:
        return [self._lists(name) for name in TFIDF_COLUMNS]

    @cached_property
    def _labels(self) -> _ChunkedLists:
        return self._lists("labels")

    def _lists(self, name: str) -> _ChunkedLists:
        return _ChunkedLists(self._batches, name, self._verification.wait)


class _ChunkedLists:
    """One list column over all record batches, with offsets over their concatenated values.

    Values are read only after `verify` has returned.
    """

    def __init__(self, batches: list[pa.RecordBatch], name: str, verify: Callable[[], None]) -> None:
        self._verify = verify
        columns = [batch.column(name) for batch in batches]
        self._chunks = [artefacts.as_numpy(column.values) for column in columns]
        self._chunk_starts = lengths_to_offsets(np.array([len(chunk) for chunk in self._chunks]))
        ends = [
            artefacts.as_numpy(column.offsets)[1:] + start
            for column, start in zip(columns, self._chunk_starts[:-1], strict=True)
        ]
        self.offsets = np.concatenate([np.zeros(1, np.int64), *ends])

    def gather(self, indices: np.ndarray) -> Ragged:
        """The rows `indices`, in that order.

        Rows are visited in storage order, so the only loop is over the record batches, and the memory map is read
        sequentially.
        """
        self._verify()
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
        self._verify()
        return Ragged(np.concatenate(self._chunks), self.offsets)

    def _take(self, positions: np.ndarray) -> np.ndarray:
        """Values at sorted `positions` of the concatenated chunks."""
        found = np.empty(len(positions), self._chunks[0].dtype)
        bounds = np.searchsorted(positions, self._chunk_starts)
        for chunk in np.flatnonzero(np.diff(bounds)):
            mine = slice(bounds[chunk], bounds[chunk + 1])
            found[mine] = self._chunks[chunk][positions[mine] - self._chunk_starts[chunk]]
        return found


def indicators(labels: Ragged, num_labels: int) -> sparse.csr_matrix:
    """Labels of N texts as indicators, CSR float32 [N, L]."""
    ones = np.ones(len(labels.values), np.float32)
    return sparse.csr_matrix((ones, labels.values, labels.offsets), (len(labels), num_labels))


class LabelTable:
    """The labels of a prepared data set, row = label id. Columns are converted when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        """`table`: with `LABELS_SCHEMA` or `TITLED_LABELS_SCHEMA`."""
        self._table = table

    @property
    def names(self) -> list[str]:
        """Label names [L]."""
        return self._table.column("name").to_pylist()

    @property
    def frequency(self) -> np.ndarray:
        """Number of train texts of each label, int64 [L]."""
        return artefacts.as_numpy(self._table.column("train_frequency"))

    @property
    def titles(self) -> LabelTitles | None:
        """Titles and descriptions; None if the data set was prepared without a labels file."""
        if "title" not in self._table.column_names:
            return None
        return LabelTitles(*(self._table.column(name).to_pylist() for name in ("title", "description")))

    @property
    def words(self) -> LabelTitles:
        """`titles`, or the names as titles for a data set without titles."""
        return self.titles or LabelTitles.of_names(self.names)

    @property
    def shown(self) -> list[str]:
        """The displayed form of each label: its name, and its title if it differs."""
        titles = self.titles
        return shown_labels(self.names, None if titles is None else titles.titles)


def read_label_table(url: str) -> LabelTable:
    """Read the labels of the data set at `url`.

    Raises:
        DataError: the file is missing or damaged, or a number is impossible.
    """
    manifest = DataManifest.read(url)
    info = manifest.labels
    (file,) = _map_files(url, [info])
    file.verify()
    table = LabelTable(
        pa.Table.from_batches(_read_batches(info, file, [LABELS_SCHEMA, TITLED_LABELS_SCHEMA], full=True))
    )
    if table.frequency.min() < 0 or table.frequency.max() > manifest.rows("train"):
        raise DataError(file.where, "a train_frequency is out of range", PREPARE_AGAIN)
    return table


def read_vocabulary(url: str) -> Vocabulary:
    """The words of the data set's tf-idf.

    Raises:
        DataError: an earlier release prepared the data set, or the file is missing or damaged.
    """
    info = DataManifest.read(url).vocabulary
    if info is None:
        raise DataError(url, "contains no vocabulary, because an earlier release of cxml prepared it", PREPARE_AGAIN)
    (file,) = _map_files(url, [info])
    file.verify()
    table = pa.Table.from_batches(_read_batches(info, file, [VOCABULARY_SCHEMA], full=True))
    return checked_vocabulary(table, file.where, PREPARE_AGAIN)


def verify(url: str) -> DataManifest:
    """Read every data file and compare it with its checksum in the manifest.

    Raises:
        DataError: a file is missing, or its size or checksum is wrong; names the file.
    """
    manifest = DataManifest.read(url)
    for shard in manifest.files():
        artefacts.verify_file(url, shard, PREPARE_AGAIN)
    return manifest


def _map_files(url: str, shards: Sequence[ShardInfo]) -> list[MappedFile]:
    """Memory-mapped files of a data set; remote files are fetched into the cache."""
    allow_open_files(2 * len(shards))  # a mapping keeps two files open
    if storage.local_path(url) is not None:
        return [MappedFile(artefacts.open_file(url, shard, PREPARE_AGAIN), storage.join(url, shard.file), shard,
                           PREPARE_AGAIN) for shard in shards]  # fmt: skip
    cache = ShardCache.from_environment()
    return [MappedFile(stream, storage.join(url, shard.file), shard,
                       f"Delete its copy {cache.path(shard)} to download it again.")
            for stream, shard in zip(cache.fetch(url, shards), shards, strict=True)]  # fmt: skip


def _open_shard(shard: ShardInfo, file: MappedFile) -> list[pa.RecordBatch]:
    schemas = [shard_schema(text=kind) for kind in (TEXT, EARLIER_TEXT, None)]
    batches = _read_batches(shard, file, schemas, full=False)
    for batch in batches:
        for name in LIST_COLUMNS:
            column = batch.column(name)
            offsets = artefacts.as_numpy(column.offsets)
            if offsets[0] != 0 or offsets[-1] != len(column.values) or (np.diff(offsets) < 0).any():
                raise DataError(file.where, f"the offsets of its column {name} are broken", file.remedy)
    return batches


def _read_batches(
    shard: ShardInfo, file: MappedFile, schemas: Sequence[pa.Schema], *, full: bool
) -> list[pa.RecordBatch]:
    """Record batches of one file, zero-copy, after checks. Only `full` checks read values."""
    batches = artefacts.read_batches(file.content, schemas, file.where, file.remedy, full=full)
    rows = sum(batch.num_rows for batch in batches)
    if rows != shard.rows:
        raise DataError(file.where, f"has {rows} rows, but the manifest lists {shard.rows}", file.remedy)
    return batches
