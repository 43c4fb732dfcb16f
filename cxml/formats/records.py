"""Raw forms whose rows contain a text and its labels, as names or ids."""

from __future__ import annotations

import logging
import posixpath
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cxml.console import log_once
from cxml.data import Ragged
from cxml.errors import DataError
from cxml.formats.files import file_facts, find_file
from cxml.formats.label_text import are_multi_hot, doubts
from cxml.formats.paired import read_names
from cxml.formats.reader import CHUNK_ROWS, Problem, RawChunk, show

NAMES_FILE = "labels.txt"
_MOST_DIGITS = 4300  # Python's limit for integers
_OUT_OF_RANGE = -1  # for a label without an id; the cleaner reports it


@dataclass(frozen=True)
class Record:
    """One row: its file and line, text, labels and key; or the problem of an unreadable row.

    Labels are names (strings) or ids (integers).
    """

    file: str
    line: int
    text: str = ""
    labels: Sequence[str | int] = ()
    key: str | None = None
    problem: Problem | None = None


class RecordReader(ABC):
    """Base class of readers of rows with text and labels.

    With a file of label names, ids are line numbers in it, and names must occur in it. Without one, all names are
    collected first, which reads the files an additional time.
    """

    remedy_for_ids = ""
    """Remedy if names turn out to be ids."""

    def __init__(
        self, folder: str, files: Mapping[str, list[str]], names_file: str | None, separator: str | None = None
    ) -> None:
        """`separator` is the separator of labels; None for blanks."""
        self._folder = folder
        self._files = files
        self._names_file = names_file
        self._separator = separator
        self._doubts: list[str] = []

    @abstractmethod
    def records(self, url: str) -> Iterator[Record]:
        """The rows of one file."""

    @property
    def splits(self) -> tuple[str, ...]:
        """See `Reader.splits`."""
        return tuple(self._files)

    @property
    def collects_labels(self) -> bool:
        """See `Reader.collects_labels`."""
        return self._names_file is None

    def facts(self) -> dict[str, Any]:
        """Size and hash of each file."""
        return file_facts(self._folder, [*self._source_files(), *([self._names_file] if self._names_file else [])])

    def _source_files(self) -> list[str]:
        """All files except the names file."""
        return [url for urls in self._files.values() for url in urls]

    def label_names(self) -> list[str]:
        """The names in the names file, or all names that occur, sorted: numbers by value, then others by code point.

        Logs a warning if collected names look suspicious.
        """
        names, files = self._names, self._source_files()
        for doubt in self._doubts:
            log_once(f"{files[0] if len(files) == 1 else self._folder}: {doubt}", logging.WARNING)
        return names

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """The rows of all files of a split, with labels as ids."""
        for url in self._files[split]:
            yield from self._chunks_of(self.records(url))

    def _chunks_of(self, records: Iterable[Record]) -> Iterator[RawChunk]:
        """The rows of a file, or some of them."""
        pending: list[Record] = []
        for record in records:
            pending.append(record)
            if len(pending) == CHUNK_ROWS:
                yield self._chunk(pending)
                pending = []
        if pending:
            yield self._chunk(pending)

    def _chunk(self, records: list[Record]) -> RawChunk:
        lines = np.array([record.line for record in records], np.int64)
        labels = [[self._id_of(label) for label in record.labels] for record in records]
        problems = {row: record.problem for row, record in enumerate(records) if record.problem is not None}
        unknown = (row for row, ids in enumerate(labels) if _OUT_OF_RANGE in ids)
        for row in unknown:
            problems.setdefault(row, self._unknown_label(records[row]))
        has_keys = any(record.key is not None for record in records)
        keys = [f"\0{record.line}" if record.key is None else record.key for record in records] if has_keys else None
        file = records[0].file
        texts = [record.text for record in records]
        ids = Ragged.from_lists(labels, np.int64)
        return RawChunk(file, lines, texts, ids, self._label_file_of(file), lines, keys, problems)

    def _label_file_of(self, url: str) -> str:
        """The file with the labels of the texts in `url`, in the same lines."""
        return url

    def _unknown_label(self, record: Record) -> Problem:
        label = next(label for label in record.labels if self._id_of(label) == _OUT_OF_RANGE)
        file = self._label_file_of(record.file)
        if isinstance(label, int):
            detail = f": {label} is not in 0..{len(self._names) - 1}"
            return Problem(file, record.line, "label id out of range", "Correct it, or give all label names.", detail)
        forms = {unicodedata.normalize(form, label) for form in ("NFC", "NFD")}
        other_form = ", which has it in another Unicode form" if forms & self._ids.keys() else ""
        remedy = f"Correct it, or name every label in {self._names_file}.{self.remedy_for_ids * label.isdecimal()}"
        what = f"a label that {NAMES_FILE} does not name"
        return Problem(file, record.line, what, remedy, f": {show(label)}{other_form}")

    def _id_of(self, label: str | int) -> int:
        if isinstance(label, int):
            return label if 0 <= label < len(self._names) else _OUT_OF_RANGE
        return self._ids.get(label, _OUT_OF_RANGE)

    @cached_property
    def _names(self) -> list[str]:
        if self._names_file:
            return read_names(self._names_file, are_unique=posixpath.basename(self._names_file).startswith(NAMES_FILE))
        texts_of: Counter[str] = Counter()
        num_rows, num_texts, first_problem = 0, 0, None
        for url in (url for urls in self._files.values() for url in urls):
            for record in self.records(url):
                num_rows += 1
                texts_of.update({str(label) for label in record.labels})
                num_texts += bool(record.labels)
                first_problem = first_problem or record.problem
        if not texts_of and first_problem:
            raise first_problem.error()
        if not texts_of:
            problem = "no row has a label" if num_rows else "has no rows"
            raise DataError(self._files["train"][0], problem, "Check the file and data.source.labels_column.")
        if are_multi_hot(texts_of, num_texts):
            problem = "every row has the labels 0 and 1: multi-hot lists, with a 0 or 1 for each label"
            raise DataError(self._files["train"][0], problem, "Write the names of the true labels.")
        self._doubts = list(doubts(texts_of, num_texts, self._separator))
        return sorted(texts_of, key=_place)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self._names)}


def _place(name: str) -> tuple[bool, int, str]:
    is_number = name.isdecimal() and len(name) <= _MOST_DIGITS
    return not is_number, int(name) if is_number else 0, name


def find_names(folder: str) -> str | None:
    """The file of label names, if it exists."""
    return find_file(folder, [NAMES_FILE])
