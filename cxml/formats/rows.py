"""Rows of JSON lines and CSV files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from cxml.errors import DataError
from cxml.formats.lines import LONGEST_LINE, read_filled_lines
from cxml.formats.reader import Problem

_DELIMITERS = (",", ";", "\t", "|")  # of fields; the first counts if several divide a line equally
_EXCEL_DELIMITER = re.compile(r'"?sep=(.)"?\n', re.IGNORECASE)  # a line before the columns, written for Excel
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_objects(url: str, remedy: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Yield the line and the JSON object of each row, or its problem; blank lines at the end are ignored.

    Half of a surrogate pair, which JSON can encode, is an error, because UTF-8 files and tokenizers do not accept it.

    Args:
        url: the file; `-` is standard input.
        remedy: remedy for the problem of a row.
    """
    for number, line, unreadable in read_filled_lines(url):
        if unreadable is not None:
            yield number, unreadable
            continue
        try:
            value = json.loads(line)
            if _SURROGATE.search(line):
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            yield number, Problem(url, number, "not valid JSON", remedy, f" ({error})")
            continue
        yield number, value if isinstance(value, dict) else Problem(url, number, "not a JSON object", remedy)


class CsvRows:
    """The rows of a CSV file after its line of column names.

    Quoted fields may span lines. A broken row is reported as a problem. The first line can be `sep=;`, as for Excel.
    """

    def __init__(
        self,
        url: str,
        columns: Mapping[str, str],
        remedy: str,
        *,
        delimiter: str = ",",
        unnamed: Sequence[str] = (),
    ) -> None:
        """Read the column names.

        Args:
            url: the file; `-` is standard input.
            columns: required unique columns, each with its setting.
            remedy: remedy of a row's problem.
            delimiter: delimiter of fields; if the first line does not contain it, a comma, semicolon, tab or bar.
            unnamed: names for the columns of a file without a line of column names.

        Raises:
            DataError: the first line is not valid CSV, or does not contain each of `columns` once.
        """
        self._url = url
        self._remedy = remedy
        self._broken: dict[int, Problem] = {}
        csv.field_size_limit(LONGEST_LINE)  # per process; the default limit is 131,072 characters
        lines = self._lines()
        first_line = next(lines, "")
        excel = _EXCEL_DELIMITER.fullmatch(first_line)
        self._num_before = 1 if excel else 0
        first_line = next(lines, "") if excel else first_line
        delimiter = excel[1] if excel else _delimiter_of(first_line, delimiter)
        self._rows = csv.reader(chain([first_line] if first_line else [], lines), strict=True, delimiter=delimiter)
        try:
            first = list(unnamed) or next(self._rows, None)
        except csv.Error as error:
            raise DataError(url, f"not valid CSV ({error})", "The first line must name the columns.", line=1) from error
        for problem in self._broken.values():
            raise problem.error()
        if columns and not first:
            remedy = "Write the names of the columns into its first line, or remove the file."
            raise DataError(url, "is empty", remedy) if first is None else DataError(url, "is blank", remedy, line=1)
        self._header = first or []
        for name, setting in columns.items():
            require_column(url, name, setting, self._header, line=1)

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return self._header

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, str] | Problem]]:
        """The first line of each row, and its fields by column or its problem."""
        while True:
            line = self._line + 1
            try:
                row = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Problem(self._url, line, "not valid CSV", self._remedy, f" ({error})")
                continue
            unreadable = [self._broken.pop(n) for n in range(line, self._line + 1) if n in self._broken]
            if unreadable:
                yield line, unreadable[0]
            elif len(row) != len(self._header):
                what = "the number of columns differs from the first line"
                yield line, Problem(self._url, line, what, self._remedy, f": {len(row)}")
            else:
                yield line, dict(zip(self._header, row, strict=True))

    @property
    def _line(self) -> int:
        """The last line of the file that was read."""
        return self._num_before + self._rows.line_num

    def _lines(self) -> Iterator[str]:
        """Lines with their ends; lines that are not UTF-8 are recorded."""
        for number, line, problem in read_filled_lines(self._url):
            if problem is not None:
                self._broken[number] = problem
            yield line + "\n"


def _delimiter_of(line: str, usual: str) -> str:
    """The delimiter of the fields of a CSV file's first line: `usual` if it occurs."""
    numbers = {each: _num_fields(line, each) for each in (usual, *_DELIMITERS)}
    return usual if numbers[usual] > 1 else max(numbers, key=lambda each: numbers[each])


def _num_fields(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], strict=True, delimiter=delimiter), ()))
    except csv.Error:  # such as a quoted field that ends before another delimiter
        return 0


def require_column(url: str, name: str, setting: str, found: list[str], line: int | None = None) -> None:
    """Raise `DataError` unless `name` occurs once in the columns; `setting` is the setting of the name."""
    if found.count(name) != 1:
        problem = (
            f"has the column {name!r} twice"
            if name in found
            else f"has no column {name!r}, only {', '.join(found)[:500]}"
        )
        raise DataError(url, problem, f"Set another column: {setting}.", line=line)
