"""Tables in common forms, one file or a folder: CSV, TSV, JSON lines, JSON, Parquet, Hugging Face datasets.

Columns and the separator of labels are guessed if the choice is unambiguous. If no file is named test, a share of the
rows is held out as the test split, such that as few labels as possible occur only there.
"""

from __future__ import annotations

import dataclasses
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from cxml import storage
from cxml.config import SourceConfig
from cxml.console import counted, log_once
from cxml.data import VALIDATION, Ragged, concatenate, epoch_order
from cxml.errors import ConfigError, DataError
from cxml.formats.columns import ColumnReader
from cxml.formats.fasttext import is_fasttext
from cxml.formats.files import VALIDATION_NAMES, without_compression
from cxml.formats.label_columns import LabelColumns, guess_label_columns, joined_columns
from cxml.formats.reader import LEAVE_OUT, Problem, RawChunk
from cxml.formats.split_column import SplitColumn, find_split_column
from cxml.formats.table_columns import (
    find_separator,
    guess_columns,
    only_other,
    unread_texts,
    warn_of_repeated_texts,
)
from cxml.formats.table_rows import FORMS, Row, column_names, form_of, table_rows
from cxml.formats.text_columns import JOIN, split_columns
from cxml.urls import path_of

_SPLITS = rf"(train|test|{'|'.join(VALIDATION_NAMES)})"
_SPLIT_FIRST = re.compile(rf"{_SPLITS}(?![a-z])", re.IGNORECASE)
_SPLIT_INSIDE = re.compile(rf"(?:.*[^a-z])?{_SPLITS}(?:ing)?(?![a-z])", re.IGNORECASE)
_NO_TABLES = ("dataset_info.json", "dataset_dict.json", "state.json")  # metadata of Hugging Face datasets
_TEXT_FORMS = (".txt", ".train", ".test", *(f".{name}" for name in VALIDATION_NAMES))  # of fastText
_FIRST_ROWS = 10_000
_MEND = f"Correct or remove the row. {LEAVE_OUT}"


class TableReader(ColumnReader):
    """The rows of all tables at a path."""

    def __init__(self, source: SourceConfig) -> None:
        """Find the files, and determine columns and separator from the first one.

        Raises:
            DataError: the path has no table, or the columns of texts and labels are ambiguous.
        """
        files, self._are_inside = _files_by_split(source)
        first = files["train"][0]
        given = source.text_column
        names = column_names(first, form_of(first), _MEND)
        has_files = len(files) > 2 or bool(files["test"])  # else the train files are all there is
        self._splits = None if has_files else _splits_in_a_column(source, files["train"], names)
        self._is_cut = not files["test"] and self._splits is None
        source, of_labels = _with_columns(source, first, names)
        self._has_title = source.text_column != given and JOIN in source.text_column
        separator, self._is_preferred = _find_separator(source, first, names, of_labels)
        super().__init__(dataclasses.replace(source, label_separator=separator), files, names, of_labels)
        if self._splits is not None:
            self._columns[self._splits.column] = "data.source.path"
        if files["train"] != [source.path]:
            for name in of_labels.names if of_labels else (source.labels_column,):
                self._columns[name] += ", or move files of texts without labels to another folder"
        else:
            self._folder = posixpath.dirname(source.path)

    def facts(self) -> dict[str, Any]:
        """See `Reader.facts`. Includes choices that earlier versions made differently.

        These are a separator that was preferred to commas, a title that is joined with a text, and splits that are not
        at the beginning of the files' names.
        """
        splits = {"splits": [len(urls) for urls in self._files.values()]} if self._are_inside else {}
        separator = {"label_separator": self._source.separator} if self._is_preferred else {}
        title = {"text_column": self._source.text_column} if self._has_title else {}
        column = {"split_column": self._splits.column} if self._splits else {}
        return super().facts() | splits | separator | title | column

    @property
    def splits(self) -> tuple[str, ...]:
        """See `Reader.splits`."""
        return super().splits if self._splits is None else self._splits.splits

    def records(self, url: str) -> Iterator[Any]:
        """The rows of one file."""
        yield from self._records(url, _rows(url, self._source, self._columns))

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """The rows of a split; if neither a file nor a row is named test, a part of the rows of all files."""
        if self._splits is not None:
            for url in self._files["train"]:
                rows = self._splits.select(_rows(url, self._source, self._columns), split)
                yield from self._chunks_of(self._records(url, rows))
            return
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
        labels, texts = [], []
        for chunk in super().chunks("train"):
            labels.append(chunk.labels)
            texts.append(np.fromiter(map(hash, chunk.texts), np.int64, len(chunk.texts)))
        if not labels:
            raise DataError(self._source.path, "has no rows", "Check the files.")
        fraction, seed = self._source.test_fraction, self._source.split_seed
        is_test = held_out_with_few_labels_alone(concatenate(labels), fraction, seed)
        num_test = int(is_test.sum())
        path = self._source.path
        log_once(f"{path}: no file is named test, so {num_test} of {len(is_test)} rows are the test split")
        if not 0 < num_test < len(is_test):
            problem = f"leaves a split of {len(is_test)} rows empty"
            remedy = "Add rows, or a file such as test.csv."
            raise ConfigError("data.source.test_fraction", fraction, problem, remedy)
        _warn_of_shared_texts(path, np.concatenate(texts), is_test)
        return is_test


def _warn_of_shared_texts(path: str, texts: np.ndarray, is_test: np.ndarray) -> None:
    """Warn if more than one in a hundred test texts is also a train text. Given hashes [N] and the split, bool [N]."""
    num_test = int(is_test.sum())
    num_shared = int(np.isin(texts[is_test], texts[~is_test]).sum())
    if num_shared > num_test / 100:
        log_once(
            f"{path}: {num_shared:,} of {counted(num_test, 'test text')} are equal to a train text, so the metrics are "
            "higher than those of new texts. Remove repeated rows, or write the test texts to a file such as test.csv.",
            logging.WARNING,
        )


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


def _files_by_split(source: SourceConfig) -> tuple[dict[str, list[str]], bool]:
    """The tables of a source by the split in their names; without one named train, all others are the train split.

    The second value is true if splits are in the names, but none is at the beginning.
    """
    path = source.path
    sizes = storage.file_sizes(path)
    visible = [name for name in sorted(sizes) if not _is_hidden(name or posixpath.basename(path_of(path)))]
    names = [name for name in visible if form_of(name or path_of(path)) in FORMS]
    names = [name for name in names if not name or not _is_labels_file(storage.join(path, name), source)]
    names = names or [
        name for name in visible if _is_text(name) and is_fasttext(storage.join(path, name) if name else path)
    ]
    names = _without_compressed_copies(names)
    if not names:
        problem = "does not exist" if not sizes else f"contains no table ({', '.join(FORMS)}) and no text of fastText"
        remedy = "Set data.source.path to a table or a folder of tables. Unpack archives, and save sheets as CSV."
        raise DataError(path, problem, remedy)
    splits: dict[str, list[str]] = {"train": [], "test": [], VALIDATION: [], "": []}
    found, are_inside = _splits_of(names)
    for name, split in zip(names, found, strict=True):
        splits[split].append(storage.join(path, name) if name else path)
    train = splits["train"] or splits[""]
    if not train:
        raise DataError(path, "contains no table to train on", "Use a name such as train.csv.")
    if splits["train"] and splits[""]:
        others = ", ".join(map(posixpath.basename, splits[""]))[:500]
        log_once(f"{path}: not read, because their names have no split as other names do: {others}", logging.WARNING)
    files = {"train": train, "test": splits["test"]}
    return {**files, VALIDATION: splits[VALIDATION]} if splits[VALIDATION] else files, are_inside


def _without_compressed_copies(names: Sequence[str]) -> list[str]:
    """The files without those that are also there decompressed."""
    present, kept = frozenset(names), []
    for name in names:
        plain = without_compression(name)
        if plain != name and plain in present:
            log_once(f"{name} is not read, because the folder also contains {plain}", logging.WARNING)
        else:
            kept.append(name)
    return kept


def _is_labels_file(url: str, source: SourceConfig) -> bool:
    if source.labels_file in ("", "auto"):  # none; or none was found
        return False
    paths = [storage.local_path(each) for each in (url, source.labels_file)]
    return url == source.labels_file or (paths[0] is not None and paths[0] == paths[1])


def _is_hidden(name: str) -> bool:
    """Whether a file is not data: its name or a folder above it is hidden, or it is metadata of a dataset."""
    parts = name.split("/")
    return any(part.startswith((".", "_")) and part not in (".", "..") for part in parts) or parts[-1] in _NO_TABLES


def _is_text(name: str) -> bool:
    """Whether a file can be text of fastText, which a single file can be with any name."""
    return not name or form_of(name) in _TEXT_FORMS


def _splits_of(names: Sequence[str]) -> tuple[list[str], bool]:
    """The split of each file, and whether it is inside the names; empty for files without one.

    Names such as reviews-test.csv or testing.csv count if no name begins with train or test, and one is of training.
    """
    first, inside = ([_split_of(name, pattern) for name in names] for pattern in (_SPLIT_FIRST, _SPLIT_INSIDE))
    are_inside = not {"train", "test"} & set(first) and "train" in inside
    return (inside if are_inside else first), are_inside


def _split_of(name: str, pattern: re.Pattern[str]) -> str:
    """The split in the name of a file or of a parent folder; empty if there is none."""
    found = next((match[1].lower() for part in name.split("/") if (match := pattern.match(part))), "")
    return found if found in ("train", "test", "") else VALIDATION


def _with_columns(source: SourceConfig, url: str, names: Sequence[str]) -> tuple[SourceConfig, LabelColumns | None]:
    """The source with the columns of texts and labels in the table `url`, which has the columns `names`.

    The second value has the columns of labels if they are several.
    """
    columns = [name for name in names if name not in ("", source.id_column)]
    text, labels = guess_columns(columns, source.text_column, source.labels_column)
    of_labels = None
    read = partial(_first_rows, url, source)
    if labels is None:
        of_labels = guess_label_columns(columns, read)
    elif len(split_columns(labels, columns)) > 1:
        of_labels = joined_columns(split_columns(labels, columns), read)
    if of_labels is not None:
        labels = JOIN.join(of_labels.names)
        text = text or only_other(columns, of_labels.names)
    for value, field in ((text, "text_column"), (labels, "labels_column")):
        if value is None:
            kind = field.split("_")[0]
            problem = f"has the columns {', '.join(map(repr, columns))[:500]}; the column of the {kind} is ambiguous"
            several = "title+abstract" if value is text else "category+subcategory"
            remedy = (
                f"Set data.source.{field}, or several to join, such as {several}. The first row must name the columns."
            )
            raise DataError(url, problem, remedy)
    assert text is not None
    assert labels is not None
    unread = unread_texts(columns, text)
    if unread or (text, labels) != (source.text_column, source.labels_column):
        others = f"; not used: {', '.join(map(repr, unread))}" if unread else ""
        flags = " (0 or 1 for each label)" if of_labels and of_labels.are_flags else ""
        log_once(f"{url}: texts are in the column {text!r}, labels in {labels!r}{flags}{others}")
    chosen = dataclasses.replace(source, text_column=text)
    return (chosen if of_labels else dataclasses.replace(chosen, labels_column=labels)), of_labels


def _splits_in_a_column(source: SourceConfig, urls: Sequence[str], names: Sequence[str]) -> SplitColumn | None:
    """The column with the split of each row of the tables; None if there is none."""

    def read(columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for url in urls:
            has_all = {*columns} <= {*column_names(url, form_of(url), _MEND)}
            yield from _good_rows(url, source, columns) if has_all else [{}]  # a row without a split

    used = (source.labels_column, source.id_column, *split_columns(source.text_column, names))
    found = find_split_column(urls[0], [name for name in names if name not in used and names.count(name) == 1], read)
    if found is not None:
        log_once(f"{urls[0]}: the column {found.column!r} names the split of each row: {', '.join(found.splits)}")
    return found


def _first_rows(url: str, source: SourceConfig, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    return islice(_good_rows(url, source, columns), _FIRST_ROWS)


def _good_rows(url: str, source: SourceConfig, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    rows = _rows(url, source, dict.fromkeys(columns, "data.source.labels_column"))
    return (row for _, row in rows if not isinstance(row, Problem))


def _find_separator(
    source: SourceConfig, url: str, names: Sequence[str], of_labels: LabelColumns | None
) -> tuple[str, bool]:
    """`find_separator` for the first rows of the table `url`, if the config leaves the separator open or is a comma.

    Labels in several columns have none. Warns if texts are repeated in these rows.
    """
    if source.label_separator not in ("auto", ",") or source.label_ids or of_labels:
        return source.separator, False
    texts = split_columns(source.text_column, names)
    columns = {source.labels_column: "data.source.labels_column", **dict.fromkeys(texts, "data.source.text_column")}
    rows = islice(_rows(url, source, columns), _FIRST_ROWS)
    found = [
        (hash(tuple(map(str, map(row.get, texts)))), row.get(source.labels_column))
        for _, row in rows
        if not isinstance(row, Problem)
    ]
    cells = [cell for _, cell in found]
    warn_of_repeated_texts(url, [text for text, _ in found], cells)
    return find_separator(url, cells, source.label_separator)


def _rows(url: str, source: SourceConfig, columns: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    return table_rows(url, form_of(url), columns, _MEND, class_column=source.labels_column)


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
