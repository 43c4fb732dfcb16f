"""JSON lines, CSV and Parquet: a column of texts, a column of labels, optionally a column of keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cxml.config import SourceConfig
from cxml.formats.files import find_splits, require_file
from cxml.formats.label_columns import LabelColumns
from cxml.formats.label_text import NoLabelsError, parse_labels
from cxml.formats.parquet_rows import read_parquet
from cxml.formats.reader import CHUNK_ROWS, LEAVE_OUT, Problem, show
from cxml.formats.records import NAMES_FILE, Record, RecordReader, find_names
from cxml.formats.rows import CsvRows, read_objects
from cxml.formats.table_rows import column_names, form_of
from cxml.formats.text_columns import JOIN, NoTextError, split_columns, text_of

_MEND = "Correct or remove the row."


class ColumnReader(RecordReader):
    """Base class of the three forms: columns and their values."""

    suffix = ""
    remedy_for_ids = " If labels are ids into that file, set data.source.label_ids to true."

    def __init__(
        self,
        source: SourceConfig,
        files: dict[str, list[str]] | None = None,
        columns: Sequence[str] | None = None,
        label_columns: LabelColumns | None = None,
    ) -> None:
        """Find the columns to read.

        Args:
            source: the raw data.
            files: files of each split; None: files named after a split.
            columns: all columns of the first train file; None: read from it if they are needed.
            label_columns: the columns of labels; None: as `source` names them.
        """
        files = files or find_splits(source.path, self.suffix)
        names_file = require_file(source.path, [NAMES_FILE]) if source.label_ids else find_names(source.path)
        super().__init__(source.path, files, names_file, source.separator)
        self._source = source
        if columns is None and not (_is_plain(source.text_column) and _is_plain(source.labels_column)):
            first = files["train"][0]
            columns = column_names(first, form_of(first), _MEND)
        self._text_columns = split_columns(source.text_column, columns or ())
        self._columns = dict.fromkeys(self._text_columns, "data.source.text_column")
        self._label_columns = label_columns or columns_of_labels(source, columns or ())
        of_labels = self._label_columns.names if self._label_columns else (source.labels_column,)
        self._columns |= dict.fromkeys(of_labels, "data.source.labels_column")
        if source.id_column:
            self._columns[source.id_column] = "data.source.id_column"

    def _records(self, url: str, rows: Iterable[tuple[int, Mapping[str, Any] | Problem]]) -> Iterator[Record]:
        for line, row in rows:
            yield Record(url, line, problem=row) if isinstance(row, Problem) else self._record(url, line, row)

    def _record(self, url: str, line: int, row: Mapping[str, Any]) -> Record:
        source = self._source
        try:
            text = text_of(row, self._text_columns)
        except NoTextError as error:
            return self._broken(url, line, str(error), *self._absent(row, self._text_columns[-1]))
        cell = row.get(source.labels_column)
        try:
            if self._label_columns is not None:
                cell = self._label_columns.labels_of(row)
            labels = parse_labels(cell, source.separator, are_ids=source.label_ids)
        except NoLabelsError as error:
            if self._label_columns is not None:
                return self._broken(url, line, f"the columns of labels hold {error.what}", error.detail, error.remedy)
            absent = self._absent(row, source.labels_column) or (error.detail, error.remedy)
            return self._broken(url, line, f"{source.labels_column!r} holds {error.what}", *absent)
        key = row.get(source.id_column) if source.id_column else None
        if source.id_column and key is None:
            return self._broken(url, line, f"no key in {source.id_column!r}")
        return Record(url, line, text, labels, None if key is None else str(key))

    def _absent(self, row: Mapping[str, Any], column: str) -> tuple[str, ...]:
        """For a row without `column`, its columns and the setting, to add to the problem. Else empty."""
        if column in row:
            return ()
        return f"; the row has {', '.join(map(show, row))}"[:200], f"{_MEND} Or set {self._columns[column]}."

    def _broken(self, url: str, line: int, what: str, detail: str = "", remedy: str = _MEND) -> Record:
        return Record(url, line, problem=Problem(url, line, what, f"{remedy} {LEAVE_OUT}", detail))


def columns_of_labels(source: SourceConfig, columns: Sequence[str]) -> LabelColumns | None:
    """The columns that `labels_column` joins, each with one label in a cell; None for a single column."""
    names = split_columns(source.labels_column, columns)
    return LabelColumns(names, are_flags=False) if len(names) > 1 else None


def _is_plain(column: str) -> bool:
    """Whether a setting is surely the name of one column."""
    return column == column.strip() and JOIN not in column


class JsonlReader(ColumnReader):
    """`train*.jsonl` and similar files: a JSON object per line."""

    suffix = ".jsonl"

    def records(self, url: str) -> Iterator[Record]:
        """The objects of one file."""
        yield from self._records(url, read_objects(url, f"{_MEND} {LEAVE_OUT}"))


class CsvReader(ColumnReader):
    """`train*.csv` and similar files: a line of column names, then rows; quoted fields may span lines."""

    suffix = ".csv"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file. Raises `DataError` if the first line lacks a column."""
        yield from self._records(url, CsvRows(url, self._columns, f"{_MEND} {LEAVE_OUT}"))


class ParquetReader(ColumnReader):
    """`train*.parquet` and similar files: strings, and lists (or strings) of labels."""

    suffix = ".parquet"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file, numbered from 1. Raises `DataError` if it is not a Parquet file or lacks a column."""
        yield from self._records(url, read_parquet(url, self._columns, CHUNK_ROWS))
