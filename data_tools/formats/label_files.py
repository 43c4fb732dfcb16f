"""Label files that stand beside the texts: a matrix, a sparse text file, or names line by line."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from cxml.data import Ragged
from cxml.data.ragged import lengths_to_offsets
from cxml.errors import DataError
from data_tools.formats.files import read_content, without_compression
from data_tools.formats.label_text import parse_id
from data_tools.formats.lines import Lines, read_lines
from data_tools.formats.reader import CHUNK_ROWS, Problem

_SAVE_AGAIN = "Write it again with scipy.sparse.save_npz from a CSR matrix of texts x labels."
_PAIRS = re.compile(r"(?:[0-9]+:[0-9]+(?:\.[0-9]*)?(?:\s+|\Z)|\s+)*", re.ASCII)
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
    """A SciPy CSR matrix [N, L]; a stored non-zero is a label. Held in memory whole: 4 bytes a label."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._indptr, self._indices, self.num_labels = _read_matrix(url)

    def chunks(self) -> Iterator[LabelChunk]:
        """The rows, `CHUNK_ROWS` at a time."""
        rows = len(self._indptr) - 1
        for start in range(0, rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, rows)
            offsets = self._indptr[start : stop + 1].astype(np.int64)
            labels = Ragged(self._indices[offsets[0] : offsets[-1]], offsets - offsets[0])
            yield LabelChunk(labels, np.arange(start + 1, stop + 1), {})


class SparseTextFile:
    """The XMC repository's sparse text: a line `rows labels`, then `label:value ...` for each text."""

    def __init__(self, url: str) -> None:
        self.url = url
        head = next(read_lines(url, 1), None)
        words = head.lines[0].split() if head else []
        if len(words) != 2 or not all(word.isdigit() for word in words):
            raise DataError(url, "its first line is not the numbers of rows and labels", _SPARSE_TEXT, line=1)
        self.num_labels = int(words[1])

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
            pairs = (entry.partition(":") for entry in line.split())
            rows.append([parse_id(label) for label, _, value in pairs if not value or float(value) != 0])
        except ValueError:
            rows.append([])
            problems.setdefault(row, Problem(url, lines.first + row, "no list of label:value", _SPARSE_TEXT))
    return LabelChunk(Ragged.from_lists(rows, np.int64), numbers, problems)


def _parse_whole(lines: list[str]) -> Ragged | None:
    """The labels of many lines at once, or None where one of them is not plain `label:value label:value`."""
    text = "\n".join(lines)
    if not _PAIRS.fullmatch(text):
        return None
    pairs = np.fromiter((line.count(":") for line in lines), np.int64, len(lines))
    numbers = _parse_numbers(text.replace(":", " "))
    if numbers is None:
        return None
    labels, values = numbers[0::2], numbers[1::2]
    kept = values != 0
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return Ragged(labels[kept].astype(np.int64), kept_before[lengths_to_offsets(pairs)])


def _parse_numbers(text: str) -> np.ndarray | None:
    """Numbers between white space, or None if there is something else; integers are parsed eight times faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how older releases of NumPy tell of unreadable numbers
        for dtype in (np.int64, np.float64):
            with contextlib.suppress(ValueError, DeprecationWarning):
                return np.fromstring(text, dtype, sep=" ")
    return None


def _read_matrix(url: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Offsets, label ids and L of a CSR matrix, stored zeros removed; ids may be out of range."""
    try:
        matrix = sparse.load_npz(io.BytesIO(b"".join(read_content(url))))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(url, f"no SciPy sparse matrix can be read from it ({error})", _SAVE_AGAIN) from error
    if matrix.format != "csr":
        raise DataError(url, f"holds a {matrix.format} matrix, CSR was expected", _SAVE_AGAIN)
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    rows, num_labels = matrix.get_shape()
    if len(indptr) != rows + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] != len(indices):
        raise DataError(url, "its CSR arrays contradict each other: the offsets are no offsets", _SAVE_AGAIN)
    if len(data) != len(indices) or indices.dtype.kind not in "iu":
        raise DataError(url, "its CSR arrays contradict each other: values and label ids differ", _SAVE_AGAIN)
    stored_zeros = data == 0
    if stored_zeros.any():
        removed_before = np.concatenate([[0], np.cumsum(stored_zeros)])
        indptr, indices = indptr - removed_before[indptr], indices[~stored_zeros]
    return indptr, indices, num_labels
