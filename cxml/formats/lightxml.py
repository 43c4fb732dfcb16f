"""LightXML's and AttentionXML's raw form: parallel files of text lines and label lines.

`train_texts.txt` or `train_raw_texts.txt`; `train_labels.txt` with label names separated by blanks; the same for test.
The optional `labels.txt` lists all names, one per line, in the order of the ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from cxml.errors import DataError
from cxml.formats.files import require_file
from cxml.formats.label_text import NoLabelsError, parse_labels
from cxml.formats.lines import read_lines
from cxml.formats.reader import LEAVE_OUT, SPLITS, Problem
from cxml.formats.records import Record, RecordReader, find_names


class LightxmlReader(RecordReader):
    """Reads a folder or fsspec URL."""

    def __init__(self, folder: str) -> None:
        """Find the files. Raises `DataError` if one is missing."""
        texts = {split: require_file(folder, [f"{split}_texts.txt", f"{split}_raw_texts.txt"]) for split in SPLITS}
        self._label_file = {texts[split]: require_file(folder, [f"{split}_labels.txt"]) for split in SPLITS}
        super().__init__(folder, {split: [url] for split, url in texts.items()}, find_names(folder))

    def _source_files(self) -> list[str]:
        return [*self._label_file, *self._label_file.values()]

    def _label_file_of(self, url: str) -> str:
        return self._label_file[url]

    def records(self, url: str) -> Iterator[Record]:
        """Text and label lines in parallel. Raises `DataError` if the files differ in length."""
        label_url = self._label_file[url]
        for texts, labels in zip_longest(read_lines(url), read_lines(label_url)):
            if texts is None or labels is None or len(texts.lines) != len(labels.lines):
                longer = label_url if texts is None or (labels and len(labels.lines) > len(texts.lines)) else url
                raise DataError(longer, f"has more lines than {({url, label_url} - {longer}).pop()}",
                                "Text and label files need one line per text.")  # fmt: skip
            broken = {**labels.broken, **texts.broken}
            for place, (text, names) in enumerate(zip(texts.lines, labels.lines, strict=True)):
                line = texts.first + place
                found, problem = _parse(label_url, line, names)
                yield Record(url, line, text, found, problem=broken.get(place) or problem)


def _parse(url: str, line: int, names: str) -> tuple[Sequence[str | int], Problem | None]:
    try:
        return parse_labels(names, None), None
    except NoLabelsError as error:
        return (), Problem(url, line, error.what, f"{error.remedy} {LEAVE_OUT}", error.detail)
