"""Raw forms with a file of one text per line and a separate file of labels."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from cxml import storage
from cxml.data import most_items
from cxml.errors import DataError
from cxml.formats.files import file_facts, find_file, require_file
from cxml.formats.label_files import LabelFile, open_label_file
from cxml.formats.lines import count_lines, read_all_lines, read_lines
from cxml.formats.reader import SPLITS, RawChunk, show
from cxml.urls import path_of


@dataclass(frozen=True)
class Layout:
    """Possible file names of a form; the first existing one is used.

    Attributes:
        texts: text files per split.
        labels: label files per split, matrices or sparse text.
        names: files of label names; optional.
    """

    texts: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str]]
    names: Sequence[str]


class PairedReader:
    """Reads a folder of a given layout."""

    def __init__(self, folder: str, layout: Layout) -> None:
        """Find the files. Raises `DataError` if one is missing."""
        self._folder = folder
        self._texts = {split: require_file(folder, layout.texts[split]) for split in SPLITS}
        self._labels = {split: require_file(folder, layout.labels[split]) for split in SPLITS}
        self._names = find_file(folder, layout.names)

    @property
    def splits(self) -> tuple[str, ...]:
        """See `Reader.splits`."""
        return SPLITS

    @property
    def collects_labels(self) -> bool:
        """See `Reader.collects_labels`."""
        return False

    def facts(self) -> dict[str, Any]:
        """Size and hash of each file."""
        urls = [*self._texts.values(), *self._labels.values(), *([self._names] if self._names else [])]
        return file_facts(self._folder, urls)

    def label_names(self) -> list[str]:
        """The label names from their file, else the ids.

        Raises:
            DataError: the numbers of labels in the label files differ or are implausible, or differ from the names
                file.
        """
        train, test = (self._label_files[split] for split in SPLITS)
        if train.num_labels != test.num_labels:
            problem = (
                f"has {test.num_labels} label columns, {posixpath.basename(path_of(train.url))} has {train.num_labels}"
            )
            raise DataError(test.url, problem, "Both files need a column for every label.")
        if self._names is not None:
            return read_names(self._names, train.num_labels)
        if train.num_labels > most_items(storage.size(train.url)):
            problem = f"declares {train.num_labels} labels, more than a file of this size can contain"
            raise DataError(train.url, problem, "Correct the number, or add a file of label names.")
        return [str(label) for label in range(train.num_labels)]

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """Texts and labels in parallel. Raises `DataError` if the files differ in length."""
        labels = self._label_files[split]
        for lines, own_labels in zip_longest(read_lines(self._texts[split]), labels.chunks()):
            text_rows = len(lines.lines) if lines else 0
            label_rows = len(own_labels.labels) if own_labels else 0
            if lines is None or own_labels is None or text_rows != label_rows:
                raise self._lengths_differ(split)
            numbers = lines.first + own_labels.lines - own_labels.lines[0]
            problems = {**own_labels.problems, **lines.broken}
            yield RawChunk(
                self._texts[split], numbers, lines.lines, own_labels.labels, labels.url, own_labels.lines,
                problems=problems,
            )  # fmt: skip

    def _lengths_differ(self, split: str) -> DataError:
        texts = count_lines(self._texts[split])
        rows = sum(len(chunk.labels) for chunk in self._label_files[split].chunks())
        problem = f"has {rows} rows, but {posixpath.basename(path_of(self._texts[split]))} has {texts} lines"
        remedy = "Text and label files need one line and one row per text."
        return DataError(self._labels[split], problem, remedy)

    @cached_property
    def _label_files(self) -> dict[str, LabelFile]:
        return {split: open_label_file(url) for split, url in self._labels.items()}


def read_names(url: str, num_labels: int | None = None, *, are_unique: bool = False) -> list[str]:
    """Label names, a line each.

    Raises:
        DataError: a name is empty, their number is not `num_labels`, or a name is repeated despite `are_unique`.
    """
    names = read_all_lines(url)
    line_of: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(url, "an empty name", "Each line names one label, in the order of the ids.", line=line)
        if are_unique and line_of.setdefault(name, line) != line:
            problem = f"repeats the name of line {line_of[name]}: {show(name)}"
            raise DataError(url, problem, "Each label needs a unique name.", line=line)
    if num_labels is not None and len(names) != num_labels:
        problem = f"has {len(names)} lines, but the label files have {num_labels} columns"
        raise DataError(url, problem, "Write one name per label, or remove the file to use the ids as names.")
    return names
