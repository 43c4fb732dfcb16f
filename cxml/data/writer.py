"""Write a prepared data set: shards first, the manifest last."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.data.manifest import DataManifest, ShardInfo, TokenizerInfo
from cxml.data.ragged import Ragged
from cxml.data.schema import (
    FORMAT_VERSION,
    LABELS_FILE,
    LABELS_SCHEMA,
    TEXT,
    TITLED_LABELS_SCHEMA,
    VOCABULARY_FILE,
    shard_schema,
)
from cxml.data.terms import Vocabulary
from cxml.data.titles import LabelTitles
from cxml.errors import StaleArtefactError

# Prevents overflow of the 32-bit offsets of a list column: 16,384 texts of 32,767 tokens are 2^29 values.
_ROWS_PER_RECORD_BATCH = 16_384

# Files of an unfinished run: data files, and temporary files of a killed atomic write.
_LEFTOVER = re.compile(r"([\w-]+/\.?shard-\d{5}\.arrow|\.?(labels|vocabulary)\.arrow)(\.\w+)?")
_TEMPORARY = re.compile(r"([\w-]+/\.shard-\d{5}|\.labels|\.vocabulary)\.arrow\.\w+")


@dataclass(frozen=True)
class Examples:
    """n consecutive texts of a split, in the form for writing.

    Attributes:
        input_ids: token ids, special tokens included.
        labels: label ids, sorted and unique within a row, at least one each.
        features: L2-normalised tf-idf, CSR float32 [n, F] with sorted indices.
        texts: the raw texts, or None to omit them.
    """

    input_ids: Ragged
    labels: Ragged
    features: sparse.csr_matrix
    texts: Sequence[str] | None


class DatasetWriter:
    """Writes the files of a data set. Readers see nothing before `commit`."""

    def __init__(self, url: str) -> None:
        """Start in a folder without a data set, and delete files of an unfinished run.

        Raises:
            StaleArtefactError: the folder already contains a complete data set.
        """
        manifest = storage.join(url, MANIFEST)
        if storage.exists(manifest):
            raise StaleArtefactError(f"{manifest}: the folder already contains a data set. Use another folder.")
        remove_leftovers(url)
        self._url = url
        self._labels: ShardInfo | None = None
        self._vocabulary: ShardInfo | None = None
        self._splits: dict[str, list[ShardInfo]] = {}

    def write_labels(
        self, names: Sequence[str], train_frequency: np.ndarray, titles: LabelTitles | None = None
    ) -> None:
        """Write the label table: names [L], train texts of each label, int64 [L], and titles if there are some."""
        self._labels = write_labels(self._url, names, train_frequency, titles)

    def write_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Write the words of the tf-idf. Only evidence from words needs them."""
        self._vocabulary = write_vocabulary(self._url, vocabulary)

    def write_shard(self, split: str, examples: Examples) -> None:
        """Append one shard to `split`; row numbers continue from the previous shard."""
        shards = self._splits.setdefault(split, [])
        first_uid = sum(shard.rows for shard in shards)
        shards.append(write_shard(self._url, shard_file(split, len(shards)), examples, first_uid))

    def commit(
        self, *, fingerprint: str, config: dict[str, Any], tokenizer: TokenizerInfo, num_features: int,
        source: dict[str, Any], skipped: dict[str, dict[str, int]] | None = None, parent: str = "",
    ) -> DataManifest:  # fmt: skip
        """Write the manifest, which commits the data set."""
        assert self._labels is not None, "write_labels comes before commit"
        manifest = DataManifest(
            version=FORMAT_VERSION,
            fingerprint=fingerprint,
            config=config,
            tokenizer=tokenizer,
            num_labels=self._labels.rows,
            num_features=num_features,
            labels=self._labels,
            splits={split: tuple(shards) for split, shards in self._splits.items()},
            source=source,
            skipped=skipped or {},
            parent=parent,
            vocabulary=self._vocabulary,
        )
        manifest.write(self._url)
        return manifest


def shard_file(split: str, number: int) -> str:
    """Relative path of shard `number` of `split`."""
    return f"{split}/shard-{number:05d}.arrow"


def write_labels(
    url: str, names: Sequence[str], train_frequency: np.ndarray, titles: LabelTitles | None = None
) -> ShardInfo:
    """Write the label table of the data set under `url`; equal input gives equal bytes."""
    columns = [pa.array(names, pa.string()), pa.array(train_frequency, pa.int64())]
    if titles is None:
        return _write(url, LABELS_FILE, pa.Table.from_arrays(columns, schema=LABELS_SCHEMA))
    columns += [pa.array(titles.titles, pa.string()), pa.array(titles.descriptions, pa.string())]
    return _write(url, LABELS_FILE, pa.Table.from_arrays(columns, schema=TITLED_LABELS_SCHEMA))


def write_vocabulary(url: str, vocabulary: Vocabulary) -> ShardInfo:
    """Write the words of the tf-idf of the data set under `url`; equal input gives equal bytes."""
    return _write(url, VOCABULARY_FILE, vocabulary.table())


def write_shard(url: str, file: str, examples: Examples, first_uid: int) -> ShardInfo:
    """Write one shard atomically; equal input gives equal bytes. Rows are numbered from `first_uid`."""
    return _write(url, file, _to_table(examples, first_uid))


def remove_leftovers(url: str, *, keep_whole: bool = False) -> None:
    """Delete data files of an unfinished run under `url`; with `keep_whole` only incomplete ones."""
    pattern = _TEMPORARY if keep_whole else _LEFTOVER
    for name in storage.file_sizes(url):
        if pattern.fullmatch(name):
            storage.remove(storage.join(url, name))


def _write(url: str, file: str, table: pa.Table) -> ShardInfo:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_PER_RECORD_BATCH)
    content = sink.getvalue().to_pybytes()
    storage.write_atomic(storage.join(url, file), content)
    return ShardInfo(file, table.num_rows, len(content), hashlib.sha256(content).hexdigest())


def _to_table(examples: Examples, first_uid: int) -> pa.Table:
    schema = shard_schema(text=None if examples.texts is None else TEXT)
    rows = len(examples.input_ids)
    batches = []
    for start in range(0, rows, _ROWS_PER_RECORD_BATCH):
        stop = min(start + _ROWS_PER_RECORD_BATCH, rows)
        features = examples.features[start:stop]
        lists = [
            examples.input_ids.slice(start, stop),
            examples.labels.slice(start, stop),
            Ragged(features.indices.astype(np.int32), features.indptr),
            Ragged(features.data.astype(np.float32), features.indptr),
        ]
        columns = [pa.array(np.arange(first_uid + start, first_uid + stop, dtype=np.int64))]
        columns += [_list_array(rows_, schema.field(i + 1).type) for i, rows_ in enumerate(lists)]
        if examples.texts is not None:
            columns.append(pa.array(examples.texts[start:stop], TEXT))
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _list_array(rows: Ragged, kind: pa.ListType) -> pa.ListArray:
    offsets = pa.array(rows.offsets, pa.int32())  # raises an error on overflow
    return pa.ListArray.from_arrays(offsets, pa.array(rows.values, kind.value_type), type=kind)
