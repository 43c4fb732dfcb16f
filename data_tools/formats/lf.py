"""The repository's form for data sets with label texts (LF-AmazonTitles-131K and others).

`trn.json` and `tst.json`: an object per line with `title`, perhaps `content`, `target_ind` (label ids) and `uid`.
`lbl.json`: an object per line, its `title` names the label. `filter_labels_train.txt` and `filter_labels_test.txt`, if
there: pairs `row label`, counted from 0, that stand for the same thing twice; they are no labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property

from cxml.errors import DataError
from data_tools.formats.files import find_file, require_file
from data_tools.formats.label_text import parse_id
from data_tools.formats.lines import read_all_lines, read_lines
from data_tools.formats.reader import SPLITS, Problem
from data_tools.formats.records import Record, RecordReader

_FORM = "Each line is an object with title, target_ind and uid. Or leave such rows out: --data.on-error skip."


class LfReader(RecordReader):
    """Reads a folder or fsspec URL."""

    def __init__(self, folder: str) -> None:
        """Find the files. Raises `DataError` where one is missing."""
        files = {"train": require_file(folder, ["trn.json", "trn.jsonl"]),
                 "test": require_file(folder, ["tst.json", "tst.jsonl"])}  # fmt: skip
        super().__init__(folder, {split: [url] for split, url in files.items()}, None)
        self._label_url = require_file(folder, ["lbl.json", "lbl.jsonl"])
        self._filter_url = {files[split]: find_file(folder, [f"filter_labels_{split}.txt"]) for split in SPLITS}

    def _source_files(self) -> list[str]:
        return [*self._filter_url, self._label_url, *filter(None, self._filter_url.values())]

    def records(self, url: str) -> Iterator[Record]:
        """The objects of one file, without the labels that its filter names."""
        removed = self._filtered(url)
        for lines in read_lines(url):
            for place, line in enumerate(lines.lines):
                number = lines.first + place
                problem = lines.broken.get(place)
                yield Record(url, number, problem=problem) if problem else self._parse(url, number, line, removed)

    def _parse(self, url: str, number: int, line: str, removed: dict[int, set[int]]) -> Record:
        try:
            row = json.loads(line)
            text = " ".join(part for part in (row["title"], row.get("content", "")) if part)
            labels = [parse_id(label) for label in row["target_ind"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return Record(url, number, problem=Problem(url, number, "no object with title and target_ind", _FORM,
                                                       f" ({error!r})"))  # fmt: skip
        key = str(row["uid"]) if "uid" in row else None
        kept = [label for label in labels if label not in removed.get(number - 1, ())]
        problem = None
        if labels and not kept:
            problem = Problem(url, number, "only labels that the filter names", "", is_error=False)
        return Record(url, number, text, kept, key, problem)

    def _filtered(self, url: str) -> dict[int, set[int]]:
        """Labels to leave out, by row from 0."""
        file = self._filter_url[url]
        removed: dict[int, set[int]] = {}
        for number, line in enumerate(read_all_lines(file) if file else [], start=1):
            words = line.split()
            if len(words) != 2 or not all(word.isdigit() for word in words):
                raise DataError(str(file), "no pair of row and label", "Each line is 'row label', from 0.", line=number)
            removed.setdefault(int(words[0]), set()).add(int(words[1]))
        return removed

    def _id_of(self, label: str | int) -> int:
        return label if isinstance(label, int) and 0 <= label < len(self._names) else -1

    @cached_property
    def _names(self) -> list[str]:
        names = []
        for number, line in enumerate(read_all_lines(self._label_url), start=1):
            try:
                names.append(str(json.loads(line)["title"]))
            except (ValueError, KeyError, TypeError) as error:
                problem = f"no object with a title ({error!r})"
                raise DataError(self._label_url, problem, "Each line describes one label.", line=number) from error
        return names
