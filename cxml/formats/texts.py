"""Read texts for prediction: plain lines, or the rows of a table in any form, in their order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from cxml import storage
from cxml.console import log_once
from cxml.errors import ConfigError, DataError
from cxml.formats.files import STDIN
from cxml.formats.lines import read_lines
from cxml.formats.reader import Problem
from cxml.formats.table_columns import guess_columns
from cxml.formats.table_rows import NoRowsError, column_names, form_of, table_rows
from cxml.formats.text_columns import NoTextError, split_columns, text_of

TextForm = Literal["auto", "text", "csv", "tsv", "jsonl", "json", "parquet", "arrow"]
_FORMS = get_args(TextForm)[1:]
_FROM_STDIN = ("text", "csv", "tsv", "jsonl")
_OTHER_SUFFIXES: dict[str, TextForm] = {".txt": "text", ".ndjson": "jsonl"}
_MEND = "Correct or remove the row."


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A file of texts.

    Attributes:
        url: path or fsspec URL, optionally compressed (.gz, .zst, .bz2; not for Parquet and Arrow); `-` is standard
            input.
        form: `text` has one text per line, the others one row per text; `auto` uses the file name, and is `text` for
            standard input.
        text_column: column of the text, or several to join, such as `title+abstract`; not for `text`. If a file
            lacks the default, its only column or the one with a usual name is used, as in `data.source.kind: table`.
        id_column: column of a key to include in the predictions, not for `text`; empty: none.
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
        suffix = form_of(self.url)
        form = _OTHER_SUFFIXES.get(suffix, cast(TextForm, suffix[1:]))
        if form not in _FORMS:
            raise ConfigError("--form", self.url, "the form is unknown from its name", f"Give {', '.join(_FORMS)}.")
        return form


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
        ConfigError: the form is unknown, has no columns although one is named, or cannot be read from standard input.
    """
    form = source.resolved_form
    if form == "text":
        _refuse_columns(source)
    if form not in _FROM_STDIN and source.url == STDIN:
        raise ConfigError("--form", form, "cannot be read from standard input", "Give a file.")
    if source.url != STDIN and not storage.exists(source.url):
        raise DataError(source.url, "does not exist", "Check the path.")
    found = _lines(source) if form == "text" else _rows(source, f".{form}")
    first = 0
    while chunk := list(itertools.islice(found, min(rows, sys.maxsize))):
        keys, texts = zip(*chunk, strict=True)
        yield TextChunk(first, list(texts), list(keys) if source.id_column else None)
        first += len(texts)


def _refuse_columns(source: TextSource) -> None:
    """Raise `ConfigError` for a named column, because plain lines have none."""
    for option, column, default in (
        ("--text-column", source.text_column, TextSource.text_column),
        ("--id-column", source.id_column, TextSource.id_column),
    ):
        if column != default:
            remedy = "Leave it out, or set --form to the form of the table."
            raise ConfigError(option, column, "a file with one text per line has no columns", remedy)


def _lines(source: TextSource) -> Iterator[tuple[str, str]]:
    for lines in read_lines(source.url):
        for problem in lines.broken.values():
            raise problem.error()
        yield from (("", line) for line in lines.lines)


def _rows(source: TextSource, form: str) -> Iterator[tuple[str, str]]:
    """The key and the text of each row of a table; the key is empty if there are none."""
    texts = _text_columns(source, form)
    columns = dict.fromkeys(texts, "--text-column")
    if source.id_column:
        columns[source.id_column] = "--id-column"
    for line, row in table_rows(source.url, form, columns, _MEND):
        if isinstance(row, Problem):
            raise row.error()
        yield _entry(source, texts, line, row)


def _text_columns(source: TextSource, form: str) -> tuple[str, ...]:
    """The columns of the text in the file; those of standard input are not known before it is read."""
    if source.url == STDIN:
        return split_columns(source.text_column)
    try:
        columns = column_names(source.url, form, _MEND)
    except NoRowsError:
        return split_columns(source.text_column)
    names = [name for name in columns if name not in ("", source.id_column)]
    is_only = len(names) == 1 and "" not in columns[1:]  # the first column can be an index without a name
    column = guess_columns(names, source.text_column)[0] or (names[0] if is_only else source.text_column)
    if column != source.text_column:
        log_once(f"{source.url}: texts are in the column {column!r}")
    return split_columns(column, names)


def _entry(source: TextSource, columns: tuple[str, ...], line: int, row: Mapping[str, Any]) -> tuple[str, str]:
    try:
        text = text_of(row, columns)
    except NoTextError as error:
        is_there = any(name in row for name in columns)
        remedy = _MEND if is_there else f"{_MEND} Or set another column: --text-column."
        raise DataError(source.url, str(error), remedy, line=line) from error
    if source.id_column and row.get(source.id_column) is None:
        raise DataError(source.url, f"no key in {source.id_column!r}", _MEND, line=line)
    return str(row[source.id_column]) if source.id_column else "", text
