"""Score files of cxml and other systems: scipy sparse matrices, the XMC repository's score text, part files."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from scipy import sparse

from cxml import artefacts, storage
from cxml.data import lengths_to_offsets, read_sparse_npz
from cxml.errors import DataError
from cxml.prediction.part_files import Row, find_parts, read_rows

_COUNT = re.compile(rb"[0-9]{1,18}")
_PAIR = re.compile(rb"([0-9]{1,18}):([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+|nan|inf)(?:e[-+]?[0-9]+)?)", re.IGNORECASE)
_PART_FORMS = (".jsonl", ".parquet", ".npz")
_MOST_PLACES = 1 << 22
_SMALLEST = np.finfo(np.float32).tiny
"""Lower bound of scores in files, so that stored scores never count as missing."""
_SAME_LABELS = "Predict the same test split over the same labels."
_REMEDY = "Give scores as .npz (scipy.sparse.save_npz), XMC score text, or an output folder of cxml.predict."


def write_scores(url: str, labels: np.ndarray, scores: np.ndarray, num_labels: int) -> None:
    """Write `scores_as_npz` to a file."""
    storage.write_atomic(url, scores_as_npz(labels, scores, num_labels))


def scores_as_npz(labels: np.ndarray, scores: np.ndarray, num_labels: int) -> bytes:
    """Each text's best labels [N, K], best first (-1 for none), with scores, as a CSR matrix [N, L] in scipy's format.

    Ties, such as scores rounded to 1 or to 0, are broken by one unit in the last place, which keeps their order.
    """
    matrix = _as_matrix(labels, scores, num_labels)
    matrix.sort_indices()
    sink = io.BytesIO()
    sparse.save_npz(sink, matrix)
    return sink.getvalue()


def _as_matrix(labels: np.ndarray, scores: np.ndarray, num_labels: int) -> sparse.csr_matrix:
    """Labels [N, K], best first (-1 for none), and float32 scores as a CSR matrix [N, L] without ties in a row."""
    found = labels >= 0
    scores = np.where(found, np.maximum(scores, _SMALLEST), 0).astype(np.float32)
    for place in range(1, scores.shape[1]):
        scores[:, place] = np.minimum(scores[:, place], np.nextafter(scores[:, place - 1], np.float32(0)))
    least = np.full(len(scores), _SMALLEST, np.float32)
    for place in reversed(range(scores.shape[1])):  # restores the order of scores at the lower bound
        scores[:, place] = np.where(found[:, place], np.maximum(scores[:, place], least), 0)
        least = np.where(found[:, place], np.nextafter(scores[:, place], np.float32(1)), least)
    offsets = lengths_to_offsets(found.sum(1))
    return sparse.csr_matrix((scores[found], labels[found], offsets), (len(labels), num_labels))


def read_scores(url: str, num_rows: int, num_labels: int) -> sparse.csr_matrix:
    """The scores of a system, CSR [num_rows, num_labels].

    Args:
        url: a .npz file; a text file whose first line is `rows labels` and then has a line `label:score ...` per text;
            or the output folder of `cxml.predict`.
        num_rows: texts expected.
        num_labels: labels expected.

    Raises:
        DataError: the file is missing or broken, or belongs to other texts or labels.
    """
    if not storage.exists(url):
        raise DataError(url, "is missing", _REMEDY)
    if storage.exists(storage.join(url, artefacts.MANIFEST)):
        scores = _read_parts(url, num_labels)
    elif url.endswith(".npz"):
        scores = _read_npz(url, storage.read_bytes(url))
    else:
        scores = _read_text(url)
    rows, labels = cast(tuple[int, int], scores.shape)
    if (rows, labels) != (num_rows, num_labels):
        problem = f"has scores of {rows} texts and {labels} labels, not {num_rows} and {num_labels}"
        raise DataError(url, problem, _SAME_LABELS)
    if not np.isfinite(scores.data).all():
        raise DataError(url, "has scores that are not finite numbers", _REMEDY)
    scores.sum_duplicates()
    return scores


def _read_npz(url: str, content: bytes) -> sparse.csr_matrix:
    matrix = read_sparse_npz(content, url, _REMEDY)
    if ((matrix.columns < 0) | (matrix.columns >= matrix.shape[1])).any():
        raise DataError(url, f"has scores of labels outside 0..{matrix.shape[1] - 1}", _REMEDY)
    return sparse.csr_matrix((matrix.values, matrix.columns, matrix.offsets), matrix.shape)


def _read_text(url: str) -> sparse.csr_matrix:
    first, *lines = storage.read_bytes(url).splitlines() or [b""]
    sizes = first.split()
    if len(sizes) != 2 or not all(_COUNT.fullmatch(size) for size in sizes):
        raise DataError(url, "does not start with the numbers of texts and labels", _REMEDY, line=1)
    shape = int(sizes[0]), int(sizes[1])
    labels: list[int] = []
    scores: list[float] = []
    offsets = [0]
    for number, line in enumerate(lines, start=2):
        pairs = [_PAIR.fullmatch(word) for word in line.split()]
        if None in pairs:
            raise DataError(url, "is not a row of label:score pairs", _REMEDY, line=number)
        labels += [int(pair[1]) for pair in pairs if pair]
        scores += [float(pair[2]) for pair in pairs if pair]
        offsets.append(len(labels))
    if len(lines) != shape[0] or not all(label < shape[1] for label in labels):
        raise DataError(url, f"does not contain {shape[0]} texts with labels below {shape[1]}", _REMEDY)
    return sparse.csr_matrix((np.array(scores, np.float64), np.array(labels, np.int64), offsets), shape)


def _read_parts(url: str, num_labels: int) -> sparse.csr_matrix:
    found: list[sparse.csr_matrix] = []
    num_rows = 0
    for name in find_parts(url, _REMEDY):
        file = storage.join(url, name)
        form = posixpath.splitext(name)[1]
        if form not in _PART_FORMS:
            raise DataError(file, f"is not one of {', '.join(_PART_FORMS)}", _REMEDY)
        content = storage.read_bytes(file)
        if form == ".npz":
            scores = _read_npz(file, content)
            _, labels = cast(tuple[int, int], scores.shape)
            if labels != num_labels:
                raise DataError(file, f"has scores of {labels} labels, not {num_labels}", _SAME_LABELS)
            found.append(scores)
        else:
            found += _matrices(read_rows(file, content, num_rows, num_labels, _REMEDY), num_labels)
        num_rows = sum(cast(tuple[int, int], each.shape)[0] for each in found)
    return sparse.csr_matrix(sparse.vstack(found)) if found else sparse.csr_matrix((0, num_labels))


def _matrices(rows: Sequence[Row], num_labels: int) -> Iterator[sparse.csr_matrix]:
    """Convert rows to CSR matrices in groups, so that a long row does not widen all rows."""
    longest = max((len(labels) for labels, _ in rows), default=0)
    at_once = max(1, _MOST_PLACES // max(1, longest))
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        width = max(len(labels) for labels, _ in some)
        labels, scores = np.full((len(some), width), -1, np.int64), np.zeros((len(some), width), np.float32)
        for row, (own_labels, own_scores) in enumerate(some):
            labels[row, : len(own_labels)], scores[row, : len(own_scores)] = own_labels, own_scores
        order = np.argsort(-scores, axis=1, kind="stable")  # already sorted, unless another program wrote the folder
        yield _as_matrix(np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1), num_labels)
