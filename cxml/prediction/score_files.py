"""Scores on disk, cxml's and other systems': scipy's sparse matrices, the XMC repository's score text, part files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
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
_PART = re.compile(r"part-([0-9]{5,18})\.(jsonl|parquet|npz)", re.ASCII)
_SIZE = re.compile(r"[0-9]{1,18}", re.ASCII)
_SAME_LABELS = "Predict the same test split over the same labels."
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
        raise DataError(url, problem, _SAME_LABELS)
    if not np.isfinite(scores.data).all():
        raise DataError(url, "has scores that are no numbers", _REMEDY)
    scores.sum_duplicates()
    return scores


def _read_npz(url: str, content: bytes) -> sparse.csr_matrix:
    matrix = read_sparse_npz(content, url, _REMEDY)
    if ((matrix.columns < 0) | (matrix.columns >= matrix.shape[1])).any():
        raise DataError(url, f"has scores of labels outside 0..{matrix.shape[1] - 1}", _REMEDY)
    return sparse.csr_matrix((matrix.values, matrix.columns, matrix.offsets), matrix.shape)


def _read_text(url: str) -> sparse.csr_matrix:
    first, *lines = storage.read_bytes(url).decode("utf-8-sig", "replace").splitlines() or [""]
    sizes = first.split()
    if len(sizes) != 2 or not all(_SIZE.fullmatch(size) for size in sizes):
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
            raise DataError(url, "is no row of label:score", _REMEDY, line=number) from error
        offsets.append(len(labels))
    if len(lines) != shape[0] or not all(0 <= label < shape[1] for label in labels):
        raise DataError(url, f"does not hold {shape[0]} texts with labels below {shape[1]}", _REMEDY)
    return sparse.csr_matrix((np.array(scores, np.float64), np.array(labels, np.int64), offsets), shape)


def _read_parts(url: str, num_labels: int) -> sparse.csr_matrix:
    """The scores in an output folder of `cxml.predict`, its parts in the order of their numbers."""
    matches = [match for name in storage.file_sizes(url) if (match := _PART.fullmatch(name))]
    found = []
    for match in sorted(matches, key=lambda each: int(each[1])):
        file = storage.join(url, match[0])
        part = _read_part(file, match[2], num_labels)
        _, labels = cast(tuple[int, int], part.shape)
        if labels != num_labels:
            raise DataError(file, f"has scores of {labels} labels, not {num_labels}", _SAME_LABELS)
        found.append(part)
    if not found:
        raise DataError(url, "holds no part files", _REMEDY)
    return sparse.csr_matrix(sparse.vstack(found))


def _read_part(file: str, form: str, num_labels: int) -> sparse.csr_matrix:
    content = storage.read_bytes(file)
    if form == "npz":
        return _read_npz(file, content)
    try:
        rows = _parquet_rows(content) if form == "parquet" else _json_rows(content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, pa.ArrowException) as error:
        problem = f"holds no predictions ({type(error).__name__}: {str(error)[:200]})"
        raise DataError(file, problem, "Delete it and run cxml.predict again.") from error
    outside = [label for row in rows for label, _ in row if not 0 <= label < num_labels]
    if outside:
        raise DataError(file, f"has a score of label {outside[0]}, but there are {num_labels} labels", _SAME_LABELS)
    width = max(map(len, rows), default=0)
    labels, scores = np.full((len(rows), width), -1, np.int64), np.zeros((len(rows), width), np.float32)
    for place, row in enumerate(rows):
        labels[place, : len(row)] = [label for label, _ in row]
        scores[place, : len(row)] = [score for _, score in row]
    order = np.argsort(-scores, axis=1, kind="stable")  # as written, unless another program wrote the folder
    return _as_matrix(np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1), num_labels)


def _json_rows(content: bytes) -> list[list[tuple[int, float]]]:
    """Label and score of each prediction, text by text. Raises what a broken line leads to."""
    texts = [json.loads(line)["labels"] for line in content.splitlines()]
    return [_pairs([each["label"] for each in text], [each["score"] for each in text]) for text in texts]


def _parquet_rows(content: bytes) -> list[list[tuple[int, float]]]:
    rows = pq.read_table(pa.BufferReader(content)).to_pylist()
    return [_pairs(row["labels"], row["scores"]) for row in rows]


def _pairs(labels: Iterable[object], scores: Iterable[object]) -> list[tuple[int, float]]:
    """Labels and scores of one text, checked. Raises `ValueError` where they are none."""
    pairs = list(zip(labels, scores, strict=True))
    for label, score in pairs:
        if type(label) is not int or type(score) not in (int, float):
            raise ValueError(f"{label!r} with {score!r} is no label id with a score"[:200])
    if len({label for label, _ in pairs}) != len(pairs):
        raise ValueError("a text has a label twice")
    return [(cast(int, label), float(cast(float, score))) for label, score in pairs]
