"""The model of a job, and its filters: texts in, the content of part files out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.distributed as dist

from cxml.batch_prediction.job import PredictionJob
from cxml.batch_prediction.outputs import FORMATS
from cxml.data import cut
from cxml.errors import DataError
from cxml.formats import TextChunk, parse_count, read_all_lines
from cxml.parallel import Exchange
from cxml.prediction import ExplainedLabel, Predictions, Predictor


class Worker:
    """A predictor with a job's filters."""

    def __init__(self, job: PredictionJob, exchange: Exchange | None = None) -> None:
        predictor = Predictor.from_checkpoint(
            job.model,
            rows=job.rows,
            calibrated=job.calibrated,
            memory_map=job.memory_map,
            batch_size=job.batch_size,
            precision=job.precision,
            exchange=exchange,
        )
        self._job = job
        names = predictor.names
        allowed = _read_names(job.allowed, names) if job.allowed else []
        self._predictor = predictor.restricted_to(allowed) if job.allowed else predictor
        self._excluded = _read_pairs(job.excluded, len(names)) if job.excluded else np.zeros((0, 2), np.int64)

    def predict(self, chunk: TextChunk) -> bytes:
        """The content of the part file of a chunk."""
        job = self._job
        explained = self._explained(chunk.texts) if job.explain else None
        predictions = self._predictions(chunk, 0, len(chunk.texts)) if explained is None else _NONE
        return FORMATS[job.format](chunk, predictions, explained)

    def predict_share(self, chunk: TextChunk, rank: int, num_ranks: int) -> bytes | None:
        """`predict` distributed over ranks; the first returns the content, the others None."""
        bounds = cut(len(chunk.texts), num_ranks)
        start, stop = int(bounds[rank]), int(bounds[rank + 1])
        explained = None
        predictions = _NONE
        if self._job.explain:
            explained = self._explained(chunk.texts[start:stop])
        else:
            predictions = self._predictions(chunk, start, stop)
        shares: list | None = [None] * num_ranks if rank == 0 else None
        dist.gather_object((predictions.labels, predictions.scores, explained), shares)
        if shares is None:
            return None
        labels, scores, ways = zip(*shares, strict=True)
        found = np.concatenate(labels), np.concatenate(scores)
        whole = Predictions(*found, self._predictor.names, self._predictor.titles)
        all_ways = [way for part in ways for way in part] if self._job.explain else None
        return FORMATS[self._job.format](chunk, whole, all_ways)

    def _explained(self, texts: Sequence[str]) -> list[list[ExplainedLabel]]:
        job = self._job
        return self._predictor.explain(texts, job.k, threshold=job.threshold, beam=job.beam)

    def _predictions(self, chunk: TextChunk, start: int, stop: int) -> Predictions:
        first, last = np.searchsorted(self._excluded[:, 0], [chunk.first + start, chunk.first + stop])
        excluded: dict[int, list[int]] = {}
        for row, label in self._excluded[first:last].tolist():
            excluded.setdefault(row - chunk.first - start, []).append(label)
        job = self._job
        return self._predictor.predict(
            chunk.texts[start:stop], job.k, threshold=job.threshold, beam=job.beam, excluded=excluded
        )


_NONE = Predictions(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32), ())


def _read_names(file: str, known: Sequence[str]) -> list[str]:
    """The label names in a file; blank lines are ignored."""
    lines = {number: line for number, line in enumerate(read_all_lines(file), start=1) if line.strip()}
    if not lines:
        raise DataError(file, "names no label", "Write a label name per line.")
    labels = frozenset(known)
    for number, name in lines.items():
        if name not in labels:
            problem = f"{name[:80]!r} is not a label of this model"
            raise DataError(file, problem, "Write one label name of the training data per line.", line=number)
    return list(lines.values())


def _read_pairs(file: str, num_labels: int) -> np.ndarray:
    """Pairs (row, label) sorted by row, int64 [n, 2]; blank lines are ignored."""
    pairs = []
    for number, line in enumerate(read_all_lines(file), start=1):
        if not line.strip():
            continue
        words = line.split()
        numbers = [count for count in map(parse_count, words) if count is not None]
        if len(words) != 2 or len(numbers) != 2:
            raise DataError(file, "is not a row and a label", "Write two numbers from 0 per line.", line=number)
        if numbers[1] >= num_labels:
            problem = f"{numbers[1]} is not a label id: there are {num_labels}, numbered from 0"
            raise DataError(file, problem, "Give the labels of this model.", line=number)
        pairs.append((numbers[0], numbers[1]))
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[np.lexsort(found.T[::-1])]
