"""The reader of each `data.source.kind`."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from scipy import sparse

from cxml.config import SourceConfig
from cxml.data import VALIDATION, concatenate
from cxml.errors import DataError
from cxml.formats import icd10cm
from cxml.formats.cleaning import Cleaner
from cxml.formats.columns import CsvReader, JsonlReader, ParquetReader
from cxml.formats.labels_file import find_labels_file
from cxml.formats.lf import LfReader
from cxml.formats.lightxml import LightxmlReader
from cxml.formats.pecos import open_pecos
from cxml.formats.raw import RawDataset, RawSplit
from cxml.formats.reader import Reader
from cxml.formats.table import TableReader
from cxml.formats.titled import TitledReader
from cxml.formats.xmc import open_xmc

_OPEN = {
    "xmc": lambda source: open_xmc(source.path),
    "lightxml": lambda source: LightxmlReader(source.path),
    "lf": lambda source: LfReader(source.path),
    "pecos": lambda source: open_pecos(source.path),
    "jsonl": JsonlReader,
    "csv": CsvReader,
    "parquet": ParquetReader,
    "table": TableReader,
    "icd10cm": lambda source: icd10cm.Icd10cmReader(source.chapters, source.test_fraction, source.split_seed),
}


def open_source(source: SourceConfig) -> TitledReader:
    """The reader of the raw data and of the labels file, if there is one.

    Raises:
        DataError: a file is missing, or it is not clear what one holds.
        ConfigError: a package that the source needs is not installed, or labels of no text cannot be had.
    """
    labels_file = find_labels_file(source)
    found = source if labels_file is None else dataclasses.replace(source, labels_file=labels_file)
    return TitledReader(_OPEN[source.kind](found), source, labels_file)


def source_facts(source: SourceConfig) -> dict[str, Any]:
    """Facts that identify the raw data: sizes and hashes of its files, or its package's version. Raises as above."""
    return {"kind": source.kind, **open_source(source).facts()}


def read_source(source: SourceConfig, on_error: Literal["refuse", "skip"] = "refuse") -> RawDataset:
    """Read and validate all raw data in memory.

    Raises:
        DataError: a file is missing or broken; names file, line and remedy.
        ConfigError: a package that the source needs is not installed.
    """
    reader = open_source(source)
    names = list(reader.label_names())
    splits = {split: _read_split(reader, split, len(names), on_error, source.path) for split in reader.splits}
    return RawDataset(splits, names, reader.label_titles())


def require_texts(reader: Reader, path: str) -> None:
    """Raise `DataError` where a split of the source at `path` has no row at all: before hours of work on the others."""
    for split in reader.splits:
        if not any(len(chunk.texts) for chunk in reader.chunks(split)):
            raise no_texts(split, path)


def no_texts(split: str, path: str) -> DataError:
    """The error for a split of the source at `path` in which no text is left."""
    remedy = "Write texts with their labels into its file."
    if split == VALIDATION:
        remedy += " Or remove the file, and hold out a part of the train texts: train.validation_fraction: 0.1."
    return DataError(path, f"no text is left in the split {split}", remedy)


def _read_split(
    reader: Reader, split: str, num_labels: int, on_error: Literal["refuse", "skip"], path: str
) -> RawSplit:
    cleaner = Cleaner(num_labels, on_error)
    chunks = [cleaner.clean(chunk) for chunk in reader.chunks(split)]
    texts = [text for chunk_texts, _ in chunks for text in chunk_texts]
    if not texts:
        raise no_texts(split, path)
    labels = concatenate([chunk_labels for _, chunk_labels in chunks])
    ones = np.ones(len(labels.values), np.float32)
    return RawSplit(texts, sparse.csr_matrix((ones, labels.values, labels.offsets), (len(texts), num_labels)))
