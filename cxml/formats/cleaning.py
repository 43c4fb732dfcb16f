"""Clean raw chunks: reject or skip broken rows, and sort labels."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from cxml.data import Ragged
from cxml.data.ragged import lengths_to_offsets
from cxml.formats.keys import SeenKeys
from cxml.formats.reader import LEAVE_OUT, Problem, RawChunk


class Cleaner:
    """Checks the rows of one split.

    Attributes:
        skipped: number of skipped rows, by reason.
    """

    def __init__(self, num_labels: int, on_error: Literal["refuse", "skip"]) -> None:
        self.skipped: Counter[str] = Counter()
        self._num_labels = num_labels
        self._on_error = on_error
        self._seen = SeenKeys()

    def clean(self, chunk: RawChunk) -> tuple[list[str], Ragged]:
        """Texts and sorted, unique labels of the valid rows.

        Raises:
            DataError: a row is broken, and broken rows are rejected; describes the first one.
        """
        problems = self._problems(chunk)
        for row in sorted(problems):
            if problems[row].is_error and self._on_error == "refuse":
                raise problems[row].error()
        self.skipped.update(problem.what for problem in problems.values())
        if not problems:
            return chunk.texts, _sorted_unique(chunk.labels)
        kept = np.setdiff1d(np.arange(len(chunk.texts)), np.fromiter(problems, np.int64))
        return [chunk.texts[row] for row in kept], _sorted_unique(chunk.labels.take(kept))

    def _problems(self, chunk: RawChunk) -> dict[int, Problem]:
        """The first problem of each broken row."""
        found = dict(chunk.problems)

        def add(row: int, at_label: bool, what: str, remedy: str, detail: str = "") -> None:
            file, lines = (chunk.label_file, chunk.label_lines) if at_label else (chunk.file, chunk.lines)
            found.setdefault(row, Problem(file, int(lines[row]), what, f"{remedy} {LEAVE_OUT}", detail))

        for row, text in enumerate(chunk.texts):
            if not text or text.isspace():
                add(row, False, "an empty text", "Remove the row, and its labels if they are in another file.")
        labels = chunk.labels
        for row in np.flatnonzero(labels.lengths == 0).tolist():
            detail = f" (the text is {chunk.texts[row][:60]!r})"
            add(row, True, "this row has no label", "Remove the row, and its text if in another file.", detail)
        outside = np.flatnonzero((labels.values < 0) | (labels.values >= self._num_labels))
        for position in outside.tolist():
            row = int(np.searchsorted(labels.offsets, position, side="right")) - 1
            detail = f": {labels.values[position]} is not in 0..{self._num_labels - 1}"
            add(row, True, "label id out of range", "Correct it, or give all label names.", detail)
        if chunk.keys is not None:
            for row in self._seen.add(chunk.keys).tolist():
                add(row, False, "a key seen before", "Remove one of the rows.", f": {chunk.keys[row]}")
        return found


def _sorted_unique(rows: Ragged) -> Ragged:
    """Each row's values sorted, without repeats, as int32."""
    row_of = np.repeat(np.arange(len(rows)), rows.lengths)
    keys = (row_of << 32) | rows.values.astype(np.int64)
    if (np.diff(keys) <= 0).any():
        keys = np.unique(keys)
    lengths = np.bincount(keys >> 32, minlength=len(rows))
    return Ragged((keys & 0xFFFFFFFF).astype(np.int32), lengths_to_offsets(lengths))
