"""JSON lines, CSV and Parquet: a column of texts, a column of labels, perhaps a column of keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cxml.config import SourceConfig
from data_tools.formats.files import find_parts
from data_tools.formats.parquet_rows import read_parquet
from data_tools.formats.reader import CHUNK_ROWS, SPLITS, Problem
from data_tools.formats.records import Record, RecordReader, find_names
from data_tools.formats.rows import CsvRows, read_objects

_MEND = "Correct or remove the row. Or leave such rows out: --data.on-error skip."


class ColumnReader(RecordReader):
    """What the three forms share: which columns are read, and what may stand in them."""

    suffix = ""

    def __init__(self, source: SourceConfig) -> None:
        files = {split: find_parts(source.path, split, self.suffix) for split in SPLITS}
        super().__init__(source.path, files, find_names(source.path))
        self._source = source
        self._columns = [name for name in (source.text_column, source.labels_column, source.id_column) if name]

    def _records(self, url: str, rows: Iterable[tuple[int, Mapping[str, Any] | Problem]]) -> Iterator[Record]:
        for line, row in rows:
            yield Record(url, line, problem=row) if isinstance(row, Problem) else self._record(url, line, row)

    def _record(self, url: str, line: int, row: Mapping[str, Any]) -> Record:
        source = self._source
        text = row.get(source.text_column)
        if not isinstance(text, str):
            what = f"no text in {source.text_column!r}" if text is None else f"{source.text_column!r} is no string"
            return self._broken(url, line, what)
        labels = self._labels(row.get(source.labels_column))
        if labels is None:
            return self._broken(url, line, f"{source.labels_column!r} is no list of names or ids")
        key = row.get(source.id_column) if source.id_column else None
        if source.id_column and key is None:
            return self._broken(url, line, f"no key in {source.id_column!r}")
        return Record(url, line, text, labels, None if key is None else str(key))

    def _labels(self, value: object) -> list[str | int] | None:
        if isinstance(value, str):
            names = (name.strip() for name in value.split(self._source.label_separator))
            return [int(name) if name.isdecimal() else name for name in names if name]
        if not isinstance(value, list):
            return None
        known = all(isinstance(label, (str, int)) and not isinstance(label, bool) for label in value)
        return value if known else None

    def _broken(self, url: str, line: int, what: str, detail: str = "") -> Record:
        return Record(url, line, problem=Problem(url, line, what, _MEND, detail))


class JsonlReader(ColumnReader):
    """`train*.jsonl` and `test*.jsonl`: a JSON object per line."""

    suffix = ".jsonl"

    def records(self, url: str) -> Iterator[Record]:
        """The objects of one file."""
        yield from self._records(url, read_objects(url, _MEND))


class CsvReader(ColumnReader):
    """`train*.csv` and `test*.csv`: a line of column names, then rows; quoted fields may span lines."""

    suffix = ".csv"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file. Raises `DataError` where the first line lacks a column."""
        yield from self._records(url, CsvRows(url, self._columns, _MEND))


class ParquetReader(ColumnReader):
    """`train*.parquet` and `test*.parquet`: strings, and lists (or strings) of labels."""

    suffix = ".parquet"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file, numbered from 1. Raises `DataError` where it is no Parquet file or lacks a column."""
        yield from self._records(url, read_parquet(url, self._columns, CHUNK_ROWS))
