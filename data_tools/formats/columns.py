"""JSON lines, CSV and Parquet: a column of texts, a column of labels, perhaps a column of keys."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxml import storage
from cxml.config import SourceConfig
from cxml.errors import DataError
from data_tools.formats.files import find_parts, require_file
from data_tools.formats.label_text import NoLabelsError, parse_labels
from data_tools.formats.lines import read_lines
from data_tools.formats.reader import CHUNK_ROWS, LEAVE_OUT, SPLITS, Problem
from data_tools.formats.records import NAMES_FILE, Record, RecordReader, find_names

_MEND = "Correct or remove the row."


class ColumnReader(RecordReader):
    """What the three forms share: which columns are read, and what may stand in them."""

    suffix = ""
    remedy_for_ids = " If labels are ids into that file, set data.source.label_ids to true."

    def __init__(self, source: SourceConfig) -> None:
        files = {split: find_parts(source.path, split, self.suffix) for split in SPLITS}
        names = require_file(source.path, [NAMES_FILE]) if source.label_ids else find_names(source.path)
        super().__init__(source.path, files, names, source.label_separator)
        self._source = source

    def _record(self, url: str, line: int, row: Mapping[str, Any]) -> Record:
        source = self._source
        text = row.get(source.text_column)
        if not isinstance(text, str):
            what = f"no text in {source.text_column!r}" if text is None else f"{source.text_column!r} is no string"
            return self._broken(url, line, what)
        try:
            labels = parse_labels(row.get(source.labels_column), source.label_separator, are_ids=source.label_ids)
        except NoLabelsError as error:
            return self._broken(url, line, f"{source.labels_column!r} holds {error.what}", error.detail, error.remedy)
        key = row.get(source.id_column) if source.id_column else None
        if source.id_column and key is None:
            return self._broken(url, line, f"no key in {source.id_column!r}")
        return Record(url, line, text, labels, None if key is None else str(key))

    def _broken(self, url: str, line: int, what: str, detail: str = "", remedy: str = _MEND) -> Record:
        return Record(url, line, problem=Problem(url, line, what, f"{remedy} {LEAVE_OUT}", detail))


class JsonlReader(ColumnReader):
    """`train*.jsonl` and `test*.jsonl`: a JSON object per line."""

    suffix = ".jsonl"

    def records(self, url: str) -> Iterator[Record]:
        """The objects of one file."""
        for lines in read_lines(url):
            for place, line in enumerate(lines.lines):
                yield self._parse(url, lines.first + place, line, lines.broken.get(place))

    def _parse(self, url: str, number: int, line: str, broken: Problem | None) -> Record:
        if broken is not None:
            return Record(url, number, problem=broken)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self._broken(url, number, "not valid JSON", f" ({error})")
        return self._record(url, number, row) if isinstance(row, dict) else self._broken(url, number, "no JSON object")


class CsvReader(ColumnReader):
    """`train*.csv` and `test*.csv`: a line of column names, then rows; quoted fields may span lines."""

    suffix = ".csv"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file. Raises `DataError` where the first line lacks a column."""
        broken: dict[int, Problem] = {}
        rows = csv.reader(lines_for_csv(url, broken), strict=True)
        header = next(rows, [])
        wanted = [self._source.text_column, self._source.labels_column, self._source.id_column]
        for name in filter(None, wanted):
            if name not in header:
                problem = f"has no column {name!r}, only {', '.join(header)}"
                raise DataError(url, problem, "Set data.source.text_column and labels_column.", line=1)
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._broken(url, line, "no valid CSV", f" ({error})")
                continue
            here = range(line, rows.line_num + 1)
            unreadable = next((broken.pop(number) for number in here if number in broken), None)
            yield Record(url, line, problem=unreadable) if unreadable else self._parse(url, line, header, row)

    def _parse(self, url: str, line: int, header: list[str], row: list[str]) -> Record:
        if len(row) != len(header):
            return self._broken(url, line, "another number of columns than the first line", f": {len(row)}")
        return self._record(url, line, dict(zip(header, row, strict=True)))


def lines_for_csv(url: str, broken: dict[int, Problem]) -> Iterator[str]:
    """Lines with their ends; those that are not UTF-8 are noted in `broken` before they are read on."""
    for lines in read_lines(url):
        broken.update({lines.first + place: problem for place, problem in lines.broken.items()})
        for line in lines.lines:
            yield line + "\n"


class ParquetReader(ColumnReader):
    """`train*.parquet` and `test*.parquet`: strings, and lists (or strings) of labels."""

    suffix = ".parquet"

    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file, numbered from 1. Raises `DataError` where it is no Parquet file or lacks a column."""
        source = self._source
        columns = [name for name in (source.text_column, source.labels_column, source.id_column) if name]
        with storage.open_read(url) as stream:
            try:
                file = pq.ParquetFile(stream)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(url, f"no Parquet file ({error})", "Write it again.") from error
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                problem = f"has no column {missing[0]!r}, only {', '.join(file.schema_arrow.names)}"
                raise DataError(url, problem, "Set data.source.text_column and labels_column.")
            line = 0
            for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
                for row in batch.to_pylist():
                    line += 1
                    yield self._record(url, line, row)
