"""Read texts for prediction: plain lines, JSON lines, CSV or Parquet, in their order."""

from __future__ import annotations

import itertools
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cxml import storage
from cxml.errors import ConfigError, DataError
from cxml.formats.files import STDIN, without_compression
from cxml.formats.lines import read_lines
from cxml.formats.parquet_rows import read_parquet
from cxml.formats.reader import Problem
from cxml.formats.rows import CsvRows, read_objects

TextForm = Literal["auto", "text", "jsonl", "csv", "parquet"]
_BY_SUFFIX: dict[str, TextForm] = {".txt": "text", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_MEND = "Correct or remove the row."
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A file of texts.

    Attributes:
        url: path or fsspec URL, optionally compressed (.gz, .zst, .bz2; not for Parquet); `-` is standard input.
        form: `text` has one text per line, the others one row per text; `auto` uses the file name, and is `text` for
            standard input.
        text_column: column of the text, except for `text`.
        id_column: column of a key to include in the predictions; empty: none.
    """

    url: str
    form: TextForm = "auto"
    text_column: str = "text"
    id_column: str = ""

    @property
    def resolved_form(self) -> TextForm:
        """The form with `auto` resolved. Raises `ConfigError` if the file name has no known suffix."""
        if self.form != "auto":
            return self.form
        if self.url == STDIN:
            return "text"
        suffix = posixpath.splitext(without_compression(self.url))[1].lower()
        if suffix not in _BY_SUFFIX:
            raise ConfigError("--form", self.url, "the form is unknown from its name", f"Give {', '.join(_FORMS)}.")
        return _BY_SUFFIX[suffix]


@dataclass(frozen=True)
class TextChunk:
    """Consecutive texts, the number of the first (from 0), and their optional keys."""

    first: int
    texts: list[str]
    keys: list[str] | None


def read_texts(source: TextSource, rows: int) -> Iterator[TextChunk]:
    """All texts of a source, `rows` at a time.

    Raises:
        DataError: the file is missing, or a row has no text; names the line.
        ConfigError: the form is unknown, or is Parquet from standard input.
    """
    form = source.resolved_form
    if form == "parquet" and source.url == STDIN:
        raise ConfigError("--form", form, "cannot be read from standard input", "Give a file.")
    if source.url != STDIN and not storage.exists(source.url):
        raise DataError(source.url, "does not exist", "Check the path.")
    found = _FORMS[form](source)
    first = 0
    while chunk := list(itertools.islice(found, min(rows, sys.maxsize))):
        keys, texts = zip(*chunk, strict=True)
        yield TextChunk(first, list(texts), list(keys) if source.id_column and form != "text" else None)
        first += len(texts)


def _plain(source: TextSource) -> Iterator[tuple[str, str]]:
    for lines in read_lines(source.url):
        _refuse_first(lines.broken)
        yield from (("", line) for line in lines.lines)


def _jsonl(source: TextSource) -> Iterator[tuple[str, str]]:
    return _entries(source, read_objects(source.url, _MEND))


def _csv(source: TextSource) -> Iterator[tuple[str, str]]:
    return _entries(source, CsvRows(source.url, _columns(source), _MEND))


def _parquet(source: TextSource) -> Iterator[tuple[str, str]]:
    return _entries(source, read_parquet(source.url, _columns(source), _ROWS_AT_ONCE))


def _columns(source: TextSource) -> dict[str, str]:
    """The columns to read, each with its option of `cxml.predict`."""
    columns = {source.text_column: "--text-column"}
    return columns | {source.id_column: "--id-column"} if source.id_column else columns


def _entries(source: TextSource, rows: Iterable[tuple[int, Mapping[str, Any] | Problem]]) -> Iterator[tuple[str, str]]:
    for line, row in rows:
        if isinstance(row, Problem):
            raise row.error()
        yield _entry(source, line, row)


def _entry(source: TextSource, line: int, row: Mapping[str, Any]) -> tuple[str, str]:
    text = row.get(source.text_column)
    if not isinstance(text, str):
        remedy = _MEND if source.text_column in row else f"{_MEND} Or set another column: --text-column."
        raise DataError(source.url, f"no text in {source.text_column!r}", remedy, line=line)
    if source.id_column and row.get(source.id_column) is None:
        raise DataError(source.url, f"no key in {source.id_column!r}", _MEND, line=line)
    return str(row[source.id_column]) if source.id_column else "", text


def _refuse_first(broken: Mapping[int, Problem]) -> None:
    for problem in broken.values():
        raise problem.error()


_FORMS = {"text": _plain, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
