"""Rows of text files that have a form of their own: JSON lines and CSV."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxml.errors import DataError
from cxml.formats.lines import LONGEST_LINE, read_filled_lines
from cxml.formats.reader import Problem

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_objects(url: str, remedy: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """The line and the JSON object of each row, or what is wrong with it; blank lines at the end are no rows.

    Half of a surrogate pair, which JSON can spell, is refused: no UTF-8 file and no tokenizer can take it.

    Args:
        url: the file; `-` is standard input.
        remedy: for the problem of a row.
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

    Quoted fields may span lines; a row is an error of its own where it is broken.
    """

    def __init__(
        self, url: str, columns: Mapping[str, str], remedy: str, *, delimiter: str = ",", unnamed: Sequence[str] = ()
    ) -> None:
        """Read the column names.

        Args:
            url: the file; `-` is standard input.
            columns: those that must be there, once, each with the setting that names it.
            remedy: for the problem of a row.
            delimiter: between fields.
            unnamed: names for the columns of a file without a line of column names.

        Raises:
            DataError: the first line is no line of CSV, or does not name each of `columns` once.
        """
        self._url = url
        self._remedy = remedy
        self._broken: dict[int, Problem] = {}
        csv.field_size_limit(LONGEST_LINE)  # of the process; the default refuses texts from 131,072 characters on
        self._rows = csv.reader(self._lines(), strict=True, delimiter=delimiter)
        try:
            self._header = list(unnamed) or next(self._rows, [])
        except csv.Error as error:
            raise DataError(url, f"not valid CSV ({error})", "The first line names the columns.", line=1) from error
        for problem in self._broken.values():
            raise problem.error()
        if columns and not self._header:
            raise DataError(url, "is empty", "Write the names of the columns into its first line, or remove the file.")
        for name, setting in columns.items():
            require_column(url, name, setting, self._header, line=1)

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return self._header

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, str] | Problem]]:
        """The line on which each row begins, and its fields by column or what is wrong with it."""
        while True:
            line = self._rows.line_num + 1
            try:
                row = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Problem(self._url, line, "not valid CSV", self._remedy, f" ({error})")
                continue
            unreadable = [self._broken.pop(n) for n in range(line, self._rows.line_num + 1) if n in self._broken]
            if unreadable:
                yield line, unreadable[0]
            elif len(row) != len(self._header):
                what = "another number of columns than the first line"
                yield line, Problem(self._url, line, what, self._remedy, f": {len(row)}")
            else:
                yield line, dict(zip(self._header, row, strict=True))

    def _lines(self) -> Iterator[str]:
        """Lines with their ends; those that are not UTF-8 are noted before they are read on."""
        for number, line, problem in read_filled_lines(self._url):
            if problem is not None:
                self._broken[number] = problem
            yield line + "\n"


def require_column(url: str, name: str, setting: str, found: list[str], line: int | None = None) -> None:
    """Raise `DataError` unless `name` is one of the columns, and only once; `setting` is where another is named."""
    if found.count(name) != 1:
        problem = (
            f"has the column {name!r} twice"
            if name in found
            else f"has no column {name!r}, only {', '.join(found)[:500]}"
        )
        raise DataError(url, problem, f"Name another column: {setting}.", line=line)
