"""The job: what to predict and how, its parts, and what is there of them already."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np
import torch.distributed as dist

from cxml import storage, urls
from cxml.batch_prediction.outputs import FORMATS, OutputFormat
from cxml.config import PrecisionChoice
from cxml.console import set_up_logging
from cxml.data import cut
from cxml.data_tools.formats import STDIN, TextChunk, TextSource, parse_count, read_all_lines, read_texts
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.parallel import Exchange, distributed, run_workers
from cxml.prediction import (
    ExplainedLabel,
    Predictions,
    Predictor,
    RowFormat,
    as_threshold,
    model_identity,
    read_decisions,
)
from cxml.progress import meter
from cxml.ray_cluster import Device
from cxml.storage.locks import locked

_log = logging.getLogger(__name__)
_MANIFEST, _PLAN = "manifest.json", "plan.json"
_PART = re.compile(r"part-(\d{5,})\.")
_ELSEWHERE = "Name another output folder, or delete this one."


@dataclass(frozen=True, kw_only=True)
class PredictionJob:
    """A file to predict.

    Attributes:
        model: what `Predictor.from_checkpoint` takes.
        source: the texts.
        output: folder to write.
        format: of the part files.
        k: labels per text, at most.
        threshold: least score, or the name of a threshold that was chosen for the model; see `Predictor.predict`.
        calibrated: give calibrated probabilities as scores, see `Predictor.from_checkpoint`.
        beam: see `Predictor.predict`.
        rows: number format of the label rows; None: as stored.
        memory_map: map an exported folder's label rows.
        batch_size: texts per batch.
        precision: number format in which the encoder computes, see `Predictor.from_checkpoint`; None: as in evaluation.
        part_rows: texts per part file.
        allowed: file with a label name per line; others are not predicted. Empty: all.
        excluded: file with a line `row label` (ids from 0) for each label that a text must not get, as the LF data
            sets' filter_labels_test.txt. Empty: none.
        explain: show the way through the tree (`jsonl` only).
    """

    model: str
    source: TextSource
    output: str
    format: OutputFormat = "jsonl"
    k: int = 5
    threshold: float | str | None = None
    calibrated: bool = False
    beam: tuple[int, ...] = ()
    rows: RowFormat | None = None
    memory_map: bool = False
    batch_size: int = 128
    precision: PrecisionChoice | None = None
    part_rows: int = 16384
    allowed: str = ""
    excluded: str = ""
    explain: bool = False

    def __post_init__(self) -> None:
        for field, number in (("k", self.k), ("part-rows", self.part_rows), ("batch-size", self.batch_size)):
            if number < 1:
                raise ConfigError(f"--{field}", number, "must be at least 1", "Leave it out.")
        if self.explain and (self.format != "jsonl" or self.excluded):
            raise ConfigError("--explain", True, "goes with --format jsonl, and without --excluded", "Leave one out.")

    def part_file(self, part: int) -> str:
        """Where a part is written."""
        return storage.join(self.output, f"part-{part:05d}.{self.format}")


def predict_file(
    job: PredictionJob, *, processes: int = 1, on_ray: bool = False, ray_workers: int = 0, ray_device: Device = "auto"
) -> int:
    """Predict all parts that are not there yet; the number of texts.

    Args:
        job: what to predict.
        processes: processes on this machine that share the label rows.
        on_ray: let Ray Data's actors predict, each with all label rows.
        ray_workers: how many; 0: one per GPU of the cluster if they use any, else one per CPU.
        ray_device: what they compute on.

    Raises:
        StaleArtefactError: the output folder holds predictions of another job.
        ConfigError: the number of processes or workers is impossible.
        InUseError: another command writes to the output folder.
    """
    if processes < 1 or ray_workers < 0:
        field, number = ("--processes", processes) if processes < 1 else ("--ray-workers", ray_workers)
        raise ConfigError(field, number, "is too small", "Leave it out.")
    with locked(job.output):
        return _predict_file(job, processes, on_ray=on_ray, ray_workers=ray_workers, ray_device=ray_device)


def _predict_file(job: PredictionJob, processes: int, *, on_ray: bool, ray_workers: int, ray_device: Device) -> int:
    done = _begin(job)
    if on_ray:
        if job.source.url == STDIN:
            raise ConfigError("--engine", "ray", "cannot read standard input", "Name a file that all workers can read.")
        from cxml.batch_prediction.ray_data import predict_on_ray  # noqa: PLC0415 - Ray is an optional package

        sizes = predict_on_ray(job, done, ray_workers, ray_device)
    elif processes > 1:
        if job.source.url == STDIN:
            raise ConfigError("--processes", processes, "cannot share standard input", "Name a file.")
        sizes = run_workers(predict_in_group, (job, done), processes)
    else:
        sizes = _predict_parts(job, done)
    num_texts = sum(sizes)
    storage.write_json(
        storage.join(job.output, _MANIFEST),
        {"format": "cxml-predictions", "version": 1, "parts": len(sizes), "texts": num_texts, "k": job.k},
    )
    return num_texts


def predict_stream(job: PredictionJob) -> Iterator[bytes]:
    """The predictions of a job part by part, written nowhere."""
    _require_files(job)
    worker = Worker(job)
    for chunk in read_texts(job.source, job.part_rows):
        yield worker.predict(chunk)


def predict_in_group(job: PredictionJob, done: frozenset[int]) -> list[int]:
    """Predict in a process that shares the label rows with others. The sizes of all parts."""
    with distributed() as ranks:
        set_up_logging(is_speaker=ranks.is_first)
        worker = Worker(job, Exchange())
        sizes = []
        with _meter() if ranks.is_first else contextlib.nullcontext(lambda _: None) as advance:
            for part, chunk in _parts(job):
                sizes.append(len(chunk.texts))
                if part in done:
                    continue
                content = worker.predict_share(chunk, ranks.rank, ranks.world_size)
                if content is not None:
                    storage.write_atomic(job.part_file(part), content)
                advance(len(chunk.texts))
        dist.barrier()
        return sizes


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
        """`predict`, each of several ranks doing a share; the first gets the content, the others None."""
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


def _parts(job: PredictionJob) -> Iterable[tuple[int, TextChunk]]:
    return enumerate(read_texts(job.source, job.part_rows))


def _predict_parts(job: PredictionJob, done: frozenset[int]) -> list[int]:
    """The sizes of all parts; those that are not there yet are predicted."""
    sizes = []
    worker = None
    with _meter() as advance:
        for part, chunk in _parts(job):
            sizes.append(len(chunk.texts))
            if part not in done:
                worker = worker or Worker(job)
                storage.write_atomic(job.part_file(part), worker.predict(chunk))
                advance(len(chunk.texts))
    return sizes


def _meter() -> AbstractContextManager[Callable[[int], None]]:
    return meter("Predicting texts", None)


def _begin(job: PredictionJob) -> frozenset[int]:
    """Lay the plan into the output folder, or find the same one there; the parts that are done."""
    is_stream = job.source.url == STDIN
    _require_files(job)
    as_threshold(job.threshold, read_decisions(job.model))  # refused before anything is written
    facts = None if is_stream else [storage.size(job.source.url), storage.sha256(job.source.url)]
    settings = {name: value for name, value in asdict(job).items() if name not in ("output", "batch_size")}
    for name, before in (("precision", None), ("threshold", None), ("calibrated", False)):
        if settings[name] == before:
            del settings[name]  # folders that were begun before there was a choice
    settings = json.loads(urls.masked(json.dumps(settings)))  # a new token opens the same texts
    filters = [storage.sha256(file) for file in (job.allowed, job.excluded) if file]
    fingerprint = storage.fingerprint("predictions", settings, facts, filters, model_identity(job.model))
    plan = storage.join(job.output, _PLAN)
    if storage.exists(plan):
        found = storage.read_json(plan, _ELSEWHERE).get("fingerprint")
        if is_stream or found != fingerprint:
            raise StaleArtefactError(f"{job.output} holds predictions of another model, input or setting. {_ELSEWHERE}")
    elif storage.file_sizes(job.output):
        raise DataError(job.output, "is a folder that holds something else", _ELSEWHERE)
    storage.write_json(plan, {"fingerprint": fingerprint})
    names = [_PART.match(name) for name in storage.file_sizes(job.output)]
    done = frozenset(int(match[1]) for match in names if match)
    if done:
        _log.info("%d parts are there already", len(done))
    return done


def _require_files(job: PredictionJob) -> None:
    """Refuse files that are missing before anything heavy starts."""
    for file in (job.source.url, job.allowed, job.excluded):
        if file not in ("", STDIN) and not storage.exists(file):
            raise DataError(file, "there is no such file", "Check the path.")


def _read_names(file: str, known: Sequence[str]) -> list[str]:
    """The label names in a file; blank lines are none."""
    lines = {number: line for number, line in enumerate(read_all_lines(file), start=1) if line.strip()}
    if not lines:
        raise DataError(file, "names no label", "Write a label name per line.")
    labels = frozenset(known)
    for number, name in lines.items():
        if name not in labels:
            problem = f"{name[:80]!r} is not a label of this model"
            raise DataError(file, problem, "Write a label name per line, as the training data have it.", line=number)
    return list(lines.values())


def _read_pairs(file: str, num_labels: int) -> np.ndarray:
    """Pairs (row, label) sorted by row, int64 [n, 2]; blank lines are none."""
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
