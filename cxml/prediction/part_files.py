"""Read untrusted part files of `cxml.predict` in JSON lines or Parquet."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxml import artefacts, storage
from cxml.data import refuse_repeated_values
from cxml.errors import DataError

_MOST = 3e38  # float32

Row = tuple[list[int], list[float]]
"""Unique labels of a text, and their scores."""


def find_parts(url: str, remedy: str) -> list[str]:
    """The names of the part files in the folder `url`, in order.

    Raises:
        DataError: the manifest has another format, or its number of parts differs from the files.
    """
    file = storage.join(url, artefacts.MANIFEST)
    manifest = artefacts.read_object(url, artefacts.MANIFEST, remedy)
    if (manifest.get("format"), manifest.get("version")) != ("cxml-predictions", 1):
        raise DataError(file, "is not the manifest of predictions, version 1", remedy)
    names = [name for name in storage.file_sizes(url) if name.startswith("part-")]
    names.sort(key=lambda name: (len(name), name))
    if not names:
        raise DataError(url, "contains no part files", remedy)
    count = manifest.get("parts")
    stems = [posixpath.splitext(name)[0] for name in names]
    if count != len(names) or stems != [f"part-{number:05d}" for number in range(len(names))]:
        problem = f"lists {str(count)[:40]} parts, numbered from 0, but there are {len(names)}, such as {names[-1]}"
        raise DataError(file, problem, remedy)
    return names


def read_rows(file: str, content: bytes, first: int, num_labels: int, remedy: str) -> list[Row]:
    """The rows of a part file whose first row has the number `first`.

    Raises:
        DataError: a row is broken, has another number, or a label that is not in 0..num_labels - 1; names its line.
    """
    found = _parquet(file, content, remedy) if file.endswith(".parquet") else _json_lines(file, content, remedy)
    rows = []
    for line, row in enumerate(found, start=1):
        if row.get("row", first + line - 1) != first + line - 1:
            raise DataError(file, f"row {first + line - 1} is missing or misplaced", remedy, line=line)
        labels, scores = row.get("labels"), row.get("scores")
        if not isinstance(labels, list) or not _are_labels(labels, num_labels) or not _are_scores(scores, len(labels)):
            problem = f"must contain unique labels in 0..{num_labels - 1} with finite scores"
            raise DataError(file, problem, remedy, line=line)
        rows.append((labels, scores))
    return rows


def _are_labels(values: list[Any], num_labels: int) -> bool:
    are_ids = all(type(label) is int and 0 <= label < num_labels for label in values)
    return are_ids and len(set(values)) == len(values)


def _are_scores(values: Any, count: int) -> bool:  # noqa: ANN401 - of a file
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(type(score) in (int, float) and abs(score) <= _MOST for score in values)


def _parquet(file: str, content: bytes, remedy: str) -> list[dict[str, Any]]:
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content))
        refuse_repeated_values(file, parquet.metadata, len(content), remedy)
        names = parquet.schema_arrow.names
        if not {"labels", "scores"} <= set(names):
            raise DataError(file, "has no columns labels and scores", remedy)
        return parquet.read([name for name in ("row", "labels", "scores") if name in names]).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(file, f"cannot be read as a Parquet file ({str(error)[:200]})", remedy) from error


def _json_lines(file: str, content: bytes, remedy: str) -> Iterator[dict[str, Any]]:
    for line, text in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(text)
            pairs = [(label["label"], label["score"]) for label in row["labels"]]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise DataError(file, "is not an object with labels and scores", remedy, line=line) from error
        yield {**row, "labels": [label for label, _ in pairs], "scores": [score for _, score in pairs]}
