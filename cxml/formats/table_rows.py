"""The rows of a table in any common form: CSV, TSV, JSON lines, JSON, Parquet, Arrow streams, text of fastText."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from cxml.errors import DataError
from cxml.formats.fasttext import COLUMNS, read_fasttext
from cxml.formats.features import class_names, read_arrow, stored_schema
from cxml.formats.files import read_content, without_compression
from cxml.formats.parquet_rows import read_parquet
from cxml.formats.reader import CHUNK_ROWS, Problem
from cxml.formats.rows import CsvRows, read_objects

_FIRST_OBJECTS = 1000
_JSON_WANTED = "Write one list of objects, or an object per line."
FORMS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_JSON_FORMS = (".jsonl", ".ndjson", ".json")
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # another one counts if it does not occur in the first line

Row = Mapping[str, Any] | Problem


class NoRowsError(DataError):
    """A JSON file has no rows, and therefore names no columns."""


def form_of(url: str) -> str:
    """The lower-case suffix of a file without its compression; one of `FORMS`, or another one for text of fastText."""
    return posixpath.splitext(without_compression(url))[1].lower()


def column_names(url: str, form: str, remedy: str) -> list[str]:
    """Names of a table's columns; for JSON, those of the first 1,000 rows.

    Args:
        url: the file.
        form: see `form_of`.
        remedy: remedy for the problem of a row.

    Raises:
        NoRowsError: it is a JSON file without rows.
        DataError: the file is broken, or has no columns.
    """
    names = _column_names(url, form, remedy)
    if not any(names):
        raise DataError(url, "is empty, or its first row names no columns", "Check the file.")
    return names


def _column_names(url: str, form: str, remedy: str) -> list[str]:
    if form in (".parquet", ".arrow"):
        return stored_schema(url).names
    if form in DELIMITERS:
        return CsvRows(url, {}, remedy, delimiter=DELIMITERS[form]).header
    if form not in _JSON_FORMS:
        return list(COLUMNS)
    rows = [row for _, row in islice(_json_rows(url, form, remedy), _FIRST_OBJECTS)]
    names = dict.fromkeys(name for row in rows if not isinstance(row, Problem) for name in row)
    if rows and not names and isinstance(rows[0], Problem):
        raise rows[0].error()
    if not rows:
        raise NoRowsError(url, "has no rows", "Check the file.")
    return list(names)


def table_rows(
    url: str, form: str, columns: Mapping[str, str], remedy: str, *, class_column: str = ""
) -> Iterator[tuple[int, Row]]:
    """The line or number of each row, from 1, and its values by column or its problem.

    Args:
        url: the file; `-` is standard input, for CSV, TSV and JSON lines.
        form: see `form_of`.
        columns: columns to read, each with its setting. JSON rows need not have them.
        remedy: remedy for the problem of a row.
        class_column: column whose class numbers become names, if the file has names for them.

    Raises:
        DataError: the file is broken or lacks a column.
    """
    names = None
    if form in DELIMITERS:
        rows = iter(CsvRows(url, columns, remedy, delimiter=DELIMITERS[form]))
    elif form in (".parquet", ".arrow"):
        names = class_names(stored_schema(url), class_column) if class_column else None
        read = read_parquet if form == ".parquet" else read_arrow
        rows = read(url, columns, CHUNK_ROWS)
    elif form not in _JSON_FORMS:
        rows = read_fasttext(url)
    else:
        rows = _json_rows(url, form, remedy)
    for number, row in rows:
        yield number, _with_names(row, class_column, names) if class_column else row


def _with_names(row: Row, column: str, names: list[str] | None) -> Row:
    """A row with the names of its class numbers in `column`, or their list without `names`; others are not copied."""
    if isinstance(row, Problem) or column not in row:
        return row
    labels = [row[column]] if isinstance(row[column], int) else row[column]
    if names is not None and isinstance(labels, list):
        labels = [names[each] if isinstance(each, int) and 0 <= each < len(names) else each for each in labels]
    return row if labels is row[column] else {**row, column: labels}


def _json_rows(url: str, form: str, remedy: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """The objects of JSON lines, or of one JSON list, numbered from 1."""
    if form != ".json":
        yield from read_objects(url, remedy)
        return
    if not _begins_a_list(url):
        yield from read_objects(url, f"{_JSON_WANTED} {remedy}")
        return
    try:
        rows = json.loads(b"".join(read_content(url)))
        json.dumps(rows, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise DataError(url, f"not valid JSON ({str(error)[:200]})", _JSON_WANTED) from error
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else Problem(url, number, "not a JSON object", remedy)


def _begins_a_list(url: str) -> bool:
    blocks = read_content(url, 1 << 12)
    first = next((text for block in blocks if (text := block.removeprefix(b"\xef\xbb\xbf").lstrip())), b"")
    return first.startswith(b"[")
