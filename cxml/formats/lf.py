"""The XMC repository's form for data sets with label texts (LF-AmazonTitles-131K and others).

`trn.json` and `tst.json`: an object per line with `title`, optional `content`, `target_ind` (label ids) and `uid`.
`lbl.json`: an object per line whose `title` is the label's name. Optional `filter_labels_train.txt` and
`filter_labels_test.txt`: pairs `row label`, counted from 0, of texts that equal their label; these labels are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from cxml.errors import DataError
from cxml.formats.files import find_file, require_file
from cxml.formats.lines import NOT_UTF8, read_all_lines
from cxml.formats.numbers import parse_count
from cxml.formats.reader import SPLITS, Problem
from cxml.formats.records import Record, RecordReader
from cxml.formats.rows import read_objects

_LABEL_FORM = "Each line is an object that describes one label; its title is the label's name."
_FORM = "Each line is an object with title, target_ind and uid. Or skip such rows: --data.on-error skip."


class LfReader(RecordReader):
    """Reads a folder or fsspec URL."""

    def __init__(self, folder: str) -> None:
        """Find the files. Raises `DataError` if one is missing."""
        files = {"train": require_file(folder, ["trn.json", "trn.jsonl"]),
                 "test": require_file(folder, ["tst.json", "tst.jsonl"])}  # fmt: skip
        super().__init__(folder, {split: [url] for split, url in files.items()}, None)
        self._label_url = require_file(folder, ["lbl.json", "lbl.jsonl"])
        self._filter_url = {files[split]: find_file(folder, [f"filter_labels_{split}.txt"]) for split in SPLITS}

    @property
    def collects_labels(self) -> bool:
        """See `Reader.collects_labels`."""
        return False

    def _source_files(self) -> list[str]:
        return [*self._filter_url, self._label_url, *filter(None, self._filter_url.values())]

    def records(self, url: str) -> Iterator[Record]:
        """The objects of one file, without the labels in its filter file."""
        removed = self._filtered(url)
        for number, row in read_objects(url, _FORM):
            if not isinstance(row, Problem):
                yield self._record(url, number, row, removed)
            elif row.what == NOT_UTF8:
                yield Record(url, number, problem=row)
            else:
                yield _broken(url, number, f" ({row.what}{row.detail})")

    def _record(self, url: str, number: int, row: dict[str, Any], removed: dict[int, set[int]]) -> Record:
        parts, labels = (row.get("title"), row.get("content")), row.get("target_ind")
        if "title" not in row or not all(isinstance(part or "", str) for part in parts):
            return _broken(url, number, " (title or content is not a string)")
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            return _broken(url, number, " (target_ind is not a list of label ids)")
        text = " ".join(part for part in parts if part)
        key = str(row["uid"]) if "uid" in row else None
        kept = [label for label in labels if label not in removed.get(number - 1, ())]
        problem = None
        if labels and not kept:
            problem = Problem(url, number, "all labels are removed by the filter", "", is_error=False)
        return Record(url, number, text, kept, key, problem)

    def _filtered(self, url: str) -> dict[int, set[int]]:
        """Labels to remove, by row from 0."""
        file = self._filter_url[url]
        removed: dict[int, set[int]] = {}
        for number, line in enumerate(read_all_lines(file) if file else [], start=1):
            words = line.split()
            numbers = [count for count in map(parse_count, words) if count is not None]
            if len(words) != 2 or len(numbers) != 2:
                raise DataError(str(file), "not a row and a label", "Each line is 'row label', from 0.", line=number)
            removed.setdefault(numbers[0], set()).add(numbers[1])
        return removed

    def _id_of(self, label: str | int) -> int:
        return label if isinstance(label, int) and 0 <= label < len(self._names) else -1

    @cached_property
    def _names(self) -> list[str]:
        names = []
        for number, row in read_objects(self._label_url, _LABEL_FORM):
            if isinstance(row, Problem):
                raise row.error()
            name = row.get("title")
            if not isinstance(name, str):
                raise DataError(self._label_url, "not an object with a title", _LABEL_FORM, line=number)
            names.append(name)
        return names


def _broken(url: str, number: int, detail: str) -> Record:
    problem = Problem(url, number, "not an object with title and target_ind", _FORM, detail)
    return Record(url, number, problem=problem)
