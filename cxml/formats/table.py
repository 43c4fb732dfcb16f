"""Tables in common forms, one file or a folder: CSV, TSV, JSON lines, JSON, Parquet, Hugging Face datasets.

Columns and the separator of labels are guessed if the choice is unambiguous. If no file is named test, a share of the
rows is held out as the test split, such that as few labels as possible occur only there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from cxml import storage
from cxml.config import SourceConfig
from cxml.console import counted
from cxml.data import VALIDATION, Ragged, concatenate, epoch_order
from cxml.errors import ConfigError, DataError
from cxml.formats.columns import ColumnReader
from cxml.formats.features import class_names, read_arrow, stored_schema
from cxml.formats.files import VALIDATION_NAMES, read_content, without_compression
from cxml.formats.label_text import SEPARATORS
from cxml.formats.parquet_rows import read_parquet
from cxml.formats.reader import CHUNK_ROWS, LEAVE_OUT, Problem, RawChunk
from cxml.formats.rows import CsvRows, read_objects
from cxml.urls import path_of

_log = logging.getLogger(__name__)

_FORMS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_SPLIT = re.compile(rf"(train|test|{'|'.join(VALIDATION_NAMES)})(?![a-z])", re.IGNORECASE)
_NO_TABLES = ("dataset_info.json", "dataset_dict.json", "state.json")  # metadata of Hugging Face datasets
_TEXT_NAMES = ("text", "content", "body", "document", "sentence", "abstract", "description")
_SHORT_TEXT_NAMES = ("title", "headline", "name", "summary", "question")  # texts if there are no longer ones
_LABELS_NAMES = ("labels", "label", "tags", "tag", "categories", "category", "codes", "topics", "classes")
_OTHER_LABELS_NAMES = ("keywords", "subjects", "genres", "genre", "topic", "class", "targets", "target")
_DEFAULTS = SourceConfig(kind="icd10cm")
_COMMA = ","
_OTHER_DELIMITERS = (";", "\t", "|")  # of columns in CSV files
_FIRST_ROWS = 10_000
_MEND = f"Correct or remove the row. {LEAVE_OUT}"


class TableReader(ColumnReader):
    """The rows of all tables at a path."""

    def __init__(self, source: SourceConfig) -> None:
        """Find the files, and determine columns and separator from the first one.

        Raises:
            DataError: the path has no table, or the columns of texts and labels are ambiguous.
        """
        files = _files_by_split(source)
        self._is_cut = not files["test"]
        first = files["train"][0]
        source = _with_columns(source, first)
        separator, self._is_preferred = _find_separator(source, first)
        super().__init__(dataclasses.replace(source, label_separator=separator), files)
        if files["train"] == [source.path]:
            self._folder = posixpath.dirname(source.path)

    def facts(self) -> dict[str, Any]:
        """See `Reader.facts`. Includes a separator that was preferred to commas, as earlier versions used commas."""
        return super().facts() | ({"label_separator": self._source.separator} if self._is_preferred else {})

    def records(self, url: str) -> Iterator[Any]:
        """The rows of one file."""
        yield from self._records(url, _rows(url, self._source, self._columns))

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """The rows of a split; if no file is named test, a part of the rows of all files."""
        if not self._is_cut or split == VALIDATION:
            yield from super().chunks(split)
            return
        at = 0
        for chunk in super().chunks("train"):
            rows = np.arange(at, at + len(chunk.texts))
            at += len(rows)
            kept = np.flatnonzero(self._is_test[rows] == (split == "test"))
            if len(kept):
                yield _some_rows(chunk, kept)

    @cached_property
    def _is_test(self) -> np.ndarray:
        """The held-out rows of all files, bool [N]."""
        labels = [chunk.labels for chunk in super().chunks("train")]
        if not labels:
            raise DataError(self._source.path, "has no rows", "Check the files.")
        fraction, seed = self._source.test_fraction, self._source.split_seed
        is_test = held_out_with_few_labels_alone(concatenate(labels), fraction, seed)
        num_test = int(is_test.sum())
        _log.info("No file is named test: using %d of %d rows as the test split", num_test, len(is_test))
        if not 0 < num_test < len(is_test):
            problem = f"leaves a split of {len(is_test)} rows empty"
            remedy = "Add rows, or a file such as test.csv."
            raise ConfigError("data.source.test_fraction", fraction, problem, remedy)
        return is_test


def held_out_with_few_labels_alone(labels: Ragged, fraction: float, seed: int) -> np.ndarray:
    """Choose random rows to hold out, with as few labels as possible that occur in no other row; bool [N].

    Rows are visited in random order and held out if each of their labels remains in another row. If these are too few,
    rows that remove the fewest labels follow.

    Args:
        labels: label ids of each of N rows; negative ids are ignored.
        fraction: share of the rows to hold out.
        seed: seed of the order.
    """
    wanted = round(len(labels) * fraction)
    left = np.bincount(labels.values[labels.values >= 0])
    is_test = np.zeros(len(labels), bool)

    def lost(row: int) -> int:
        own = labels.values[labels.offsets[row] : labels.offsets[row + 1]]
        return int((left[own[own >= 0]] <= 1).sum())

    def take(row: int) -> None:
        own = labels.values[labels.offsets[row] : labels.offsets[row + 1]]
        left[own[own >= 0]] -= 1
        is_test[row] = True

    order = epoch_order(len(labels), seed, 0).tolist()
    num_taken = 0
    for row in order:
        if num_taken < wanted and not lost(row):
            take(row)
            num_taken += 1
    rest = [row for row in order if not is_test[row]] if num_taken < wanted else []
    for row in sorted(rest, key=lost)[: wanted - num_taken]:
        take(row)
    return is_test


def _files_by_split(source: SourceConfig) -> dict[str, list[str]]:
    """The tables of a source by the split in their names; without one named train, all others are the train split."""
    path = source.path
    sizes = storage.file_sizes(path)
    names = [name for name in sorted(sizes) if _is_table(name or posixpath.basename(path_of(path)))]
    names = [name for name in names if not name or not _is_labels_file(storage.join(path, name), source)]
    if not names:
        problem = "does not exist" if not sizes else f"contains no table ({', '.join(_FORMS)})"
        raise DataError(path, problem, "Set data.source.path to a file or a folder of files.")
    splits: dict[str, list[str]] = {"train": [], "test": [], VALIDATION: [], "": []}
    for name in names:
        splits[_split_of(name)].append(storage.join(path, name) if name else path)
    train = splits["train"] or splits[""]
    if not train:
        raise DataError(path, "contains no table to train on", "Use a name such as train.csv.")
    found = {"train": train, "test": splits["test"]}
    return {**found, VALIDATION: splits[VALIDATION]} if splits[VALIDATION] else found


def _is_labels_file(url: str, source: SourceConfig) -> bool:
    if source.labels_file in ("", "auto"):  # none; or none was found
        return False
    paths = [storage.local_path(each) for each in (url, source.labels_file)]
    return url == source.labels_file or (paths[0] is not None and paths[0] == paths[1])


def _is_table(name: str) -> bool:
    parts = name.split("/")
    is_hidden = any(part.startswith((".", "_")) and part not in (".", "..") for part in parts)
    return not is_hidden and parts[-1] not in _NO_TABLES and _form(name) in _FORMS


def _form(url: str) -> str:
    return posixpath.splitext(without_compression(url))[1].lower()


def _split_of(name: str) -> str:
    """The split at the start of the name of a file or of a parent folder; empty if there is none."""
    found = next((match[1].lower() for part in name.split("/") if (match := _SPLIT.match(part))), "")
    return found if found in ("train", "test", "") else VALIDATION


def _with_columns(source: SourceConfig, url: str) -> SourceConfig:
    """The source with the columns of texts and labels in the table `url`."""
    columns = [name for name in _columns_of(url) if name != source.id_column]
    text = _known(columns, source.text_column, _DEFAULTS.text_column, _TEXT_NAMES, _SHORT_TEXT_NAMES)
    labels = _known(columns, source.labels_column, _DEFAULTS.labels_column, _LABELS_NAMES, _OTHER_LABELS_NAMES)
    if len(columns) == 2 and (text is None) != (labels is None):
        (other,) = set(columns) - {text, labels}
        text, labels = text or other, labels or other
    for value, field in ((text, "text_column"), (labels, "labels_column")):
        if value is None:
            kind = field.split("_")[0]
            problem = f"has the columns {', '.join(map(repr, columns))[:500]}; the column of the {kind} is ambiguous"
            raise DataError(url, problem, f"Set data.source.{field}.")
    if (text, labels) != (source.text_column, source.labels_column):
        unread = [name for name in columns if name != text and name.lower() in (*_TEXT_NAMES, *_SHORT_TEXT_NAMES)]
        others = f"; not used: {', '.join(map(repr, unread))}" if unread else ""
        _log_once(f"{url}: texts are in the column {text!r}, labels in {labels!r}{others}")
    assert text is not None
    assert labels is not None
    return dataclasses.replace(source, text_column=text, labels_column=labels)


def _find_separator(source: SourceConfig, url: str) -> tuple[str, bool]:
    """The separator of labels in the table `url`, and whether it was preferred to commas that occur too.

    Labels recur in other combinations, so their separator gives fewer distinct names than there are distinct cells. A
    character inside names gives more names. If the config sets a comma, it separates wherever it occurs.
    """
    if source.label_separator not in ("auto", _COMMA) or source.label_ids:
        return source.separator, False
    rows = islice(_rows(url, source, {source.labels_column: "data.source.labels_column"}), _FIRST_ROWS)
    cells = (row.get(source.labels_column) for _, row in rows if not isinstance(row, Problem))
    texts = {cell for cell in cells if isinstance(cell, str)}
    names = {each: count for each in SEPARATORS if (count := _num_names(each, texts)) < len(texts)}
    has_commas = any(_COMMA in text for text in texts)
    if has_commas or not names:
        names = {_COMMA: _num_names(_COMMA, texts), **names}
    best = min(names, key=lambda separator: names[separator])
    if best == _COMMA:
        return _COMMA, False
    if not has_commas:
        _log_once(f"{url}: labels are separated by {best!r}")
        return best, False
    chosen, other = (best, _COMMA) if source.label_separator == "auto" else (_COMMA, best)
    _log_once(
        f"{url}: labels are separated by {chosen!r}, which makes {counted(names[chosen], 'name')} in the first rows; "
        f"{other!r} makes {names[other]:,}. If {other!r} is the separator, set data.source.label_separator to it.",
        logging.WARNING,
    )
    return chosen, chosen != _COMMA


def _num_names(separator: str, texts: Collection[str]) -> int:
    """The number of different names between separators."""
    return len({name.strip() for text in texts for name in text.split(separator)})


@functools.cache
def _log_once(text: str, level: int = logging.INFO) -> None:
    """Log a message once, even if a run opens its source several times."""
    _log.log(level, "%s", text)


def _known(columns: list[str], wanted: str, default: str, *usual: tuple[str, ...]) -> str | None:
    """The given column, or, if it is the default and missing, the only column with a usual name.

    The first of the tuples of usual names that has any of the columns counts.
    """
    if wanted in columns or wanted != default:
        return wanted
    found = next((hits for names in usual if (hits := [name for name in columns if name.lower() in names])), [])
    return found[0] if len(found) == 1 else None


def _columns_of(url: str) -> list[str]:
    """Names of a table's columns; for JSON, those of the first row."""
    form = _form(url)
    if form in (".parquet", ".arrow"):
        return stored_schema(url).names
    if form in (".csv", ".tsv"):
        return CsvRows(url, {}, _MEND, delimiter=_delimiter(url, form)).header
    for _, row in _json_rows(url, form):
        if isinstance(row, Problem):
            raise row.error()
        return list(row)
    raise DataError(url, "has no rows", "Check the file.")


def _rows(
    url: str, source: SourceConfig, columns: Mapping[str, str]
) -> Iterator[tuple[int, Mapping[str, Any] | Problem]]:
    form = _form(url)
    if form in (".csv", ".tsv"):
        yield from CsvRows(url, columns, _MEND, delimiter=_delimiter(url, form))
    elif form in (".parquet", ".arrow"):
        names = class_names(stored_schema(url), source.labels_column)
        read = read_parquet if form == ".parquet" else read_arrow
        for number, row in read(url, columns, CHUNK_ROWS):
            yield number, {**row, source.labels_column: _named(row[source.labels_column], names)}
    else:
        yield from _json_rows(url, form)


def _named(cell: object, names: list[str] | None) -> object:
    """Convert a cell of class numbers to a list of names; other cells are not changed."""
    labels = [cell] if isinstance(cell, int) else cell
    if names is None or not isinstance(labels, list):
        return labels
    return [names[each] if isinstance(each, int) and 0 <= each < len(names) else each for each in labels]


def _delimiter(url: str, form: str) -> str:
    """The delimiter of fields: a tab in TSV; in CSV a comma, or what divides a first line without commas."""
    if form == ".tsv":
        return "\t"
    header = CsvRows(url, {}, _MEND).header
    if len(header) != 1:
        return ","
    best = max(_OTHER_DELIMITERS, key=header[0].count)
    if best not in header[0]:
        return ","
    _log_once(f"{url}: columns are delimited by {best!r}")
    return best


def _json_rows(url: str, form: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """The objects of JSON lines, or of one JSON list, numbered from 1."""
    if form != ".json" or not _begins_a_list(url):
        yield from read_objects(url, _MEND)
        return
    try:
        rows = json.loads(b"".join(read_content(url)))
        json.dumps(rows, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise DataError(
            url, f"not valid JSON ({str(error)[:200]})", "Write a list of objects, or JSON lines."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else Problem(url, number, "not a JSON object", _MEND)


def _begins_a_list(url: str) -> bool:
    blocks = read_content(url, 1 << 12)
    first = next((text for block in blocks if (text := block.removeprefix(b"\xef\xbb\xbf").lstrip())), b"")
    return first.startswith(b"[")


def _some_rows(chunk: RawChunk, rows: np.ndarray) -> RawChunk:
    """Some rows of a chunk, int64 [m]."""
    place = {int(row): number for number, row in enumerate(rows)}
    return dataclasses.replace(
        chunk,
        lines=chunk.lines[rows],
        texts=[chunk.texts[row] for row in rows],
        labels=chunk.labels.take(rows),
        label_lines=chunk.label_lines[rows],
        keys=None if chunk.keys is None else [chunk.keys[row] for row in rows],
        problems={place[row]: problem for row, problem in chunk.problems.items() if row in place},
    )
