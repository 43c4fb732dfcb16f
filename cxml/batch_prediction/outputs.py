"""Output formats of predictions: JSON lines, Parquet, or scipy sparse matrices of scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxml.data import lengths_to_offsets
from cxml.formats import TextChunk
from cxml.prediction import ExplainedLabel, Predictions, as_values, scores_as_npz

OutputFormat = Literal["jsonl", "parquet", "npz"]


def jsonl(chunk: TextChunk, predictions: Predictions, explained: list[list[ExplainedLabel]] | None) -> bytes:
    """A line per text: `row`, `id` if there are keys, and `labels` with `label`, `name` and `score`, best first.

    Labels also have a `title` if the training data had a labels file, and `probability` and `path` if they are
    explained.
    """
    lines = []
    for i in range(len(chunk.texts)):
        labels = [as_values(label) for label in (predictions[i] if explained is None else explained[i])]
        key = {"id": chunk.keys[i]} if chunk.keys else {}
        row = {"row": chunk.first + i, **key, "labels": labels}
        lines.append(json.dumps(row, ensure_ascii=False, default=asdict) + "\n")  # the clusters of a path
    return "".join(lines).encode()


def parquet(chunk: TextChunk, predictions: Predictions, explained: list[list[ExplainedLabel]] | None) -> bytes:  # noqa: ARG001
    """Columns `row`, `id` if there are keys, and the lists `labels`, `names` and `scores`, best first.

    If the training data had a labels file, also the list `titles`.
    """
    found = predictions.labels >= 0
    offsets = pa.array(lengths_to_offsets(found.sum(1)).astype(np.int32))
    labels = predictions.labels[found]
    names = pa.array([predictions.names[label] for label in labels.tolist()], pa.large_string())
    columns: dict[str, pa.Array] = {"row": pa.array(np.arange(chunk.first, chunk.first + len(chunk.texts)))}
    if chunk.keys:
        columns["id"] = pa.array(chunk.keys, pa.large_string())
    lists: dict[str, pa.Array] = {"labels": pa.array(labels), "names": names}
    if predictions.titles is not None:
        titles = [predictions.titles[label] for label in labels.tolist()]
        lists["titles"] = pa.array(titles, pa.large_string())
    lists["scores"] = pa.array(predictions.scores[found])
    for name, values in lists.items():
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def npz(chunk: TextChunk, predictions: Predictions, explained: list[list[ExplainedLabel]] | None) -> bytes:  # noqa: ARG001
    """A CSR matrix [texts, labels] of scores, as `scipy.sparse.load_npz` reads it."""
    return scores_as_npz(predictions.labels, predictions.scores, len(predictions.names))


FORMATS = {"jsonl": jsonl, "parquet": parquet, "npz": npz}
