"""The labels file: a title and an optional description of each label, by the label's name in the texts.

The file has a row per label in TSV, CSV, JSON lines or Parquet. Columns are found by their usual names. A TSV or CSV
file without a header has the columns id, name and optionally description, in this order.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxml import storage
from cxml.config import SourceConfig
from cxml.console import log_once
from cxml.errors import DataError
from cxml.formats.features import stored_schema
from cxml.formats.files import without_compression
from cxml.formats.reader import Problem, show
from cxml.formats.rows import CsvRows, read_objects
from cxml.formats.table_rows import DELIMITERS, Row, form_of, table_rows
from cxml.urls import path_of

_log = logging.getLogger(__name__)

FIELD = "data.source.labels_file"
_STEMS = ("label_names", "labels")
_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_IDS = ("id", "label_id", "code", "key", "identifier")
_TITLES = ("name", "title", "label_name", "label_title", "term")
_EITHER = "label"  # the id beside a title, the title beside an id
_DESCRIPTIONS = ("description", "definition", "gloss", "text", "content")
_IN_ORDER = ("id", "name", "description")
_MEND = "Correct or remove the row."
_NAME_COLUMNS = "Name its columns id, name and optionally description."


class UnclearColumnsError(DataError):
    """The columns of ids and titles in a labels file are ambiguous."""


@dataclass(frozen=True)
class LabelEntry:
    """Title and description of a label in a labels file; `description` is empty if there is none."""

    title: str
    description: str


@dataclass(frozen=True)
class _Columns:
    """The columns of a file. `unnamed`: assumed columns of a file without a header; empty for others."""

    id: str
    title: str
    description: str | None
    unnamed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """A description of the columns for the log."""
        if self.unnamed:
            return f"its first line contains no column names, so they are {', '.join(self.unnamed)}"
        described = f", descriptions in {self.description!r}" if self.description else ""
        return f"ids are in the column {self.id!r}, titles in {self.title!r}{described}"

    @property
    def read(self) -> dict[str, str]:
        """The columns to read, each with the setting that names the file."""
        return {name: FIELD for name in (self.id, self.title, self.description) if name is not None}


def find_labels_file(source: SourceConfig) -> str | None:
    """The labels file that `data.source.labels_file` selects; None if there is none.

    A file with ambiguous columns that was found in the folder is not used, and a warning is logged.

    Raises:
        DataError: the file does not exist, its form is unknown, its columns are ambiguous, or the folder has several.
    """
    if source.labels_file != "auto":
        return _named(source.labels_file) if source.labels_file else None
    found = _lying_in(source)
    if len(found) > 1:
        problem = f"contains several labels files: {', '.join(posixpath.basename(path_of(url)) for url in found)}"
        raise DataError(source.path, problem, f"Set {FIELD} to one of them, or to an empty string to use none.")
    if not found:
        return None
    try:
        _columns_of(found[0])
    except UnclearColumnsError as error:
        problem = f"{found[0]} is not used for the titles of labels: it {error.problem}. {error.remedy}"
        log_once(problem, logging.WARNING)
        return None
    return found[0]


def _named(url: str) -> str:
    if not storage.exists(url):
        raise DataError(url, "does not exist", f"Check {FIELD}, or leave it empty to use none.")
    if form_of(url) not in _SUFFIXES:
        problem = "has an unknown file extension for a labels file"
        raise DataError(url, problem, f"Use one of {', '.join(_SUFFIXES)}, optionally compressed (.gz, .zst, .bz2).")
    _columns_of(url)
    return url


def _lying_in(source: SourceConfig) -> list[str]:
    """Files in the source's folder with the name of a labels file; none if the source is a file or package."""
    is_file = source.kind == "table" and bool(form_of(source.path))
    if not source.path or is_file:
        return []
    names = {f"{stem}{suffix}" for stem in _STEMS for suffix in _SUFFIXES}
    files = storage.list_files(source.path, "label")
    return [url for url in files if posixpath.basename(without_compression(url)) in names]


def read_labels_file(url: str) -> dict[str, LabelEntry]:
    """The entries by label name, in the order of the file. Logs the columns used.

    Raises:
        DataError: a row has no id or no title, or an id is repeated; names the line.
    """
    columns = _columns_of(url)
    _log.info("Labels file %s: %s", url, columns.summary)
    entries: dict[str, LabelEntry] = {}
    line_of: dict[str, int] = {}
    for line, row in _rows(url, columns):
        if isinstance(row, Problem):
            raise row.error()
        name = _words(row.get(columns.id))
        title = _words(row.get(columns.title))
        if not name:
            raise DataError(url, f"no id in {columns.id!r}: {show(row.get(columns.id))}", _MEND, line=line)
        if not title:
            problem = f"no title in {columns.title!r} for {show(name)}: {show(row.get(columns.title))}"
            raise DataError(url, problem, f"{_MEND} A label without a row keeps its id as title.", line=line)
        if line_of.setdefault(name, line) != line:
            raise DataError(url, f"the id of line {line_of[name]} again: {show(name)}", _MEND, line=line)
        entries[name] = LabelEntry(title, _words(row.get(columns.description)) if columns.description else "")
    return entries


def _words(cell: object) -> str:
    """A cell as one line without surrounding whitespace; integers as text; empty for other types."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return " ".join(cell.split()) if isinstance(cell, str) else ""


def _rows(url: str, columns: _Columns) -> Iterator[tuple[int, Row]]:
    form = form_of(url)
    if form not in DELIMITERS:
        return table_rows(url, form, columns.read, _MEND)
    return iter(CsvRows(url, columns.read, _MEND, delimiter=DELIMITERS[form], unnamed=columns.unnamed))


def _columns_of(url: str) -> _Columns:
    """The columns of a labels file. Raises `UnclearColumnsError`, or `DataError` if it is unreadable."""
    form = form_of(url)
    if form in DELIMITERS:
        first = CsvRows(url, {}, _MEND, delimiter=DELIMITERS[form]).header
        return _guessed(first) or _in_order(url, first)
    names = stored_schema(url).names if form == ".parquet" else _keys_of_first(url)
    columns = _guessed(names)
    if columns is None:
        raise _unclear(url, names)
    return columns


def _keys_of_first(url: str) -> list[str]:
    for _, row in read_objects(url, _MEND):
        if isinstance(row, Problem):
            raise row.error()
        return list(row)
    raise DataError(url, "has no rows", f"Check the file, or leave {FIELD} empty to use none.")


def _guessed(names: Sequence[str]) -> _Columns | None:
    """The columns with usual names, if only one choice is possible."""
    plain = {name: name.strip().lower().replace(" ", "_") for name in names}
    ids, titles, descriptions, either = (
        [name for name in names if plain[name] in usual] for usual in (_IDS, _TITLES, _DESCRIPTIONS, (_EITHER,))
    )
    if ids and not titles:
        titles, descriptions = (either, descriptions) if either else (descriptions, [])
    elif titles and not ids:
        ids = either
        if not ids and len(names) == 2 and not descriptions:  # two columns, one of them the titles
            ids = [name for name in names if name not in titles and not plain[name].isdecimal()]
    if len(ids) != 1 or len(titles) != 1 or len(descriptions) > 1:
        return None
    return _Columns(ids[0], titles[0], descriptions[0] if descriptions else None)


def _in_order(url: str, first: Sequence[str]) -> _Columns:
    """The columns of a file without a header. Raises `UnclearColumnsError` if its first line seems to be a header."""
    names_columns = any(cell.strip().lower() in (*_IDS, *_TITLES, *_DESCRIPTIONS, _EITHER) for cell in first)
    if names_columns or not 2 <= len(first) <= len(_IN_ORDER):
        raise _unclear(url, first)
    unnamed = _IN_ORDER[: len(first)]
    return _Columns("id", "name", "description" if len(first) > 2 else None, unnamed)


def _unclear(url: str, names: Sequence[str]) -> UnclearColumnsError:
    shown = ", ".join(map(repr, names))[:500]
    problem = f"has the columns {shown}; the columns of ids and titles are ambiguous"
    return UnclearColumnsError(url, problem, _NAME_COLUMNS)
