"""Label files next to text files: a matrix, a sparse text file, or names line by line."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cxml import storage
from cxml.data import Ragged, StoredMatrix, read_sparse_npz
from cxml.data.ragged import lengths_to_offsets
from cxml.errors import DataError
from cxml.formats.files import read_content, without_compression
from cxml.formats.lines import Lines, read_lines
from cxml.formats.numbers import parse_count, parse_entries
from cxml.formats.reader import CHUNK_ROWS, Problem

_SAVE_AGAIN = "Write it again with scipy.sparse.save_npz from a matrix of texts x labels."
# Limited to a few pairs, because the backtracking state of `re` grows with each.
_PAIRS = re.compile(r"\s*(?:[0-9]{1,18}:[0-9]{1,18}(?:\.[0-9]*)?(?:\s+|\Z)){0,1000}", re.ASCII)
_SPARSE_TEXT = "The first line is 'rows labels', every other line 'label:1 label:1 ...' of one text."


@dataclass(frozen=True)
class LabelChunk:
    """Label ids of consecutive rows, their lines in the file, and the rows that could not be read."""

    labels: Ragged
    lines: np.ndarray
    problems: dict[int, Problem]


class LabelFile(Protocol):
    """Label ids of the rows of a split."""

    url: str
    num_labels: int

    def chunks(self) -> Iterator[LabelChunk]:
        """The rows, `CHUNK_ROWS` at a time."""
        ...


def open_label_file(url: str) -> LabelFile:
    """The reader of a label file, by its suffix: .npz or sparse text."""
    return MatrixFile(url) if without_compression(url).endswith(".npz") else SparseTextFile(url)


class MatrixFile:
    """A SciPy matrix [N, L]; a stored non-zero is a label. It is kept in memory."""

    def __init__(self, url: str) -> None:
        self.url = url
        matrix = _read_matrix(url)
        self.num_labels = matrix.shape[1]
        self._labels = Ragged(matrix.columns, matrix.offsets)
        odd_values = np.flatnonzero(~np.isfinite(matrix.values))
        self._odd_rows = np.unique(np.searchsorted(matrix.offsets, odd_values, side="right") - 1)

    def chunks(self) -> Iterator[LabelChunk]:
        """The rows, `CHUNK_ROWS` at a time."""
        for start in range(0, len(self._labels), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, len(self._labels))
            odd = self._odd_rows[(self._odd_rows >= start) & (self._odd_rows < stop)].tolist()
            problems = {row - start: Problem(self.url, row + 1, "a label's value is NaN or infinite", _SAVE_AGAIN)
                        for row in odd}  # fmt: skip
            yield LabelChunk(self._labels.slice(start, stop), np.arange(start + 1, stop + 1), problems)


class SparseTextFile:
    """The XMC repository's sparse text: a line `rows labels`, then `label:value ...` for each text."""

    def __init__(self, url: str) -> None:
        self.url = url
        head = next(read_lines(url, 1), None)
        words = head.lines[0].split() if head else []
        counts = [count for count in map(parse_count, words) if count is not None]
        if len(words) != 2 or len(counts) != 2:
            raise DataError(url, "its first line does not contain the numbers of rows and labels", _SPARSE_TEXT, line=1)
        self.num_labels = counts[1]

    def chunks(self) -> Iterator[LabelChunk]:
        """The rows, `CHUNK_ROWS` at a time."""
        for lines in read_lines(self.url, skip=1):
            yield _parse_sparse(self.url, lines)


def _parse_sparse(url: str, lines: Lines) -> LabelChunk:
    numbers = np.arange(lines.first, lines.first + len(lines.lines))
    labels = None if lines.broken else _parse_whole(lines.lines)
    if labels is not None:
        return LabelChunk(labels, numbers, {})
    rows: list[list[int]] = []
    problems = dict(lines.broken)
    for row, line in enumerate(lines.lines):
        try:
            rows.append(parse_entries(line.split()))
        except ValueError:
            rows.append([])
            problems.setdefault(row, Problem(url, lines.first + row, "not a list of label:value pairs", _SPARSE_TEXT))
    return LabelChunk(Ragged.from_lists(rows, np.int64), numbers, problems)


def _parse_whole(lines: list[str]) -> Ragged | None:
    """Parse the labels of many lines at once. Returns None if a line is not plain `label:value label:value`."""
    text = "\n".join(lines)
    if not _are_pairs(text):
        return None
    pairs = np.fromiter((line.count(":") for line in lines), np.int64, len(lines))
    numbers = _parse_numbers(text.replace(":", " "))
    if numbers is None:
        return None
    labels, values = numbers[0::2], numbers[1::2]
    kept = values != 0
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return Ragged(labels[kept].astype(np.int64), kept_before[lengths_to_offsets(pairs)])


def _are_pairs(text: str) -> bool:
    at, end = -1, 0
    while end > at:
        found = _PAIRS.match(text, end)
        assert found, "the pattern matches the empty text"
        at, end = end, found.end()
    return end == len(text)


def _parse_numbers(text: str) -> np.ndarray | None:
    """Parse numbers separated by white space, or return None; integers are parsed eight times faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # older releases of NumPy report errors in this way
        for dtype in (np.int64, np.float64):
            with contextlib.suppress(ValueError, DeprecationWarning):
                return np.fromstring(text, dtype, sep=" ")
    return None


def _read_matrix(url: str) -> StoredMatrix:
    """The matrix in a file without stored zeros; ids may be out of range."""
    matrix = read_sparse_npz(b"".join(read_content(url)), url, _SAVE_AGAIN, storage.size(url))
    zeros = matrix.values == 0
    if not zeros.any():
        return matrix
    zeros_before = np.concatenate([[0], np.cumsum(zeros)])
    offsets = matrix.offsets - zeros_before[matrix.offsets]
    return StoredMatrix(matrix.shape, offsets, matrix.columns[~zeros], matrix.values[~zeros])
