"""Scores on disk, cxml's and other systems': scipy's sparse matrices, the XMC repository's score text, part files."""

from __future__ import annotations

import io
import json
import posixpath
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from cxml import storage
from cxml.data import lengths_to_offsets, read_sparse_npz
from cxml.errors import DataError

_SMALLEST = np.finfo(np.float32).tiny
"""Scores of the files are at least this, so that none of them counts as missing."""
_REMEDY = "Give scores as .npz (scipy.sparse.save_npz), XMC score text, or an output folder of cxml.predict."


def write_scores(url: str, labels: np.ndarray, scores: np.ndarray, num_labels: int) -> None:
    """Write `scores_as_npz` to a file."""
    storage.write_atomic(url, scores_as_npz(labels, scores, num_labels))


def scores_as_npz(labels: np.ndarray, scores: np.ndarray, num_labels: int) -> bytes:
    """Each text's best labels [N, K], best first (-1 for none), with their scores, as scipy saves a CSR matrix [N, L].

    Equal scores, such as those rounded to 1 or to 0, differ in the file by one unit in the last place, which keeps
    their order.
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
    for place in reversed(range(scores.shape[1])):  # those that fell below it rise above each other again
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
        DataError: the file is missing, broken, or of other texts or labels.
    """
    if not storage.exists(url):
        raise DataError(url, "is missing", _REMEDY)
    if storage.exists(storage.join(url, "manifest.json")):
        scores = _read_parts(url, num_labels)
    elif url.endswith(".npz"):
        scores = _read_npz(url, storage.read_bytes(url))
    else:
        scores = _read_text(url)
    rows, labels = cast(tuple[int, int], scores.shape)
    if (rows, labels) != (num_rows, num_labels):
        problem = f"has scores of {rows} texts and {labels} labels, not {num_rows} and {num_labels}"
        raise DataError(url, problem, "Predict the same test split over the same labels.")
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
    first, *lines = storage.read_bytes(url).decode(errors="replace").splitlines() or [""]
    sizes = first.split()
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
        raise DataError(url, "does not begin with the numbers of texts and labels", _REMEDY, line=1)
    shape = int(sizes[0]), int(sizes[1])
    labels: list[int] = []
    scores: list[float] = []
    offsets = [0]
    for number, line in enumerate(lines, start=2):
        try:
            pairs = [word.split(":") for word in line.split()]
            labels += [int(label) for label, _ in pairs]
            scores += [float(score) for _, score in pairs]
        except ValueError as error:
            raise DataError(url, "is not a row of label:score pairs", _REMEDY, line=number) from error
        offsets.append(len(labels))
    if len(lines) != shape[0] or not all(0 <= label < shape[1] for label in labels):
        raise DataError(url, f"does not hold {shape[0]} texts with labels below {shape[1]}", _REMEDY)
    return sparse.csr_matrix((np.array(scores, np.float64), np.array(labels, np.int64), offsets), shape)


def _read_parts(url: str, num_labels: int) -> sparse.csr_matrix:
    parts = [name for name in sorted(storage.file_sizes(url)) if name.startswith("part-")]
    found = []
    for name in parts:
        content = storage.read_bytes(storage.join(url, name))
        form = posixpath.splitext(name)[1]
        if form == ".npz":
            found.append(_read_npz(storage.join(url, name), content))
            continue
        if form == ".parquet":
            rows = [(row["labels"], row["scores"]) for row in pq.read_table(pa.BufferReader(content)).to_pylist()]
        else:
            rows = [_pairs(json.loads(line)) for line in content.splitlines()]
        width = max((len(labels) for labels, _ in rows), default=0)
        labels, scores = np.full((len(rows), width), -1, np.int64), np.zeros((len(rows), width), np.float32)
        for row, (own_labels, own_scores) in enumerate(rows):
            labels[row, : len(own_labels)], scores[row, : len(own_scores)] = own_labels, own_scores
        order = np.argsort(-scores, axis=1, kind="stable")  # as written, unless another program wrote the folder
        labels, scores = np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1)
        found.append(_as_matrix(labels, scores, num_labels))
    if not found:
        raise DataError(url, "holds no part files", _REMEDY)
    return sparse.csr_matrix(sparse.vstack(found))


def _pairs(row: dict) -> tuple[list[int], list[float]]:
    return [label["label"] for label in row["labels"]], [label["score"] for label in row["labels"]]
