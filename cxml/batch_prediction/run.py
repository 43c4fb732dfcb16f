"""Predict the parts of a job that are missing: in this process, in several, or on Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import torch.distributed as dist

from cxml import artefacts, storage
from cxml.batch_prediction.job import PredictionJob, begin, require_files
from cxml.batch_prediction.worker import Worker
from cxml.console import set_up_logging
from cxml.errors import ConfigError
from cxml.formats import STDIN, TextChunk, read_texts
from cxml.parallel import Exchange, distributed, run_workers
from cxml.progress import meter
from cxml.ray_cluster import Device
from cxml.storage.locks import locked


def predict_file(
    job: PredictionJob, *, processes: int = 1, on_ray: bool = False, ray_workers: int = 0, ray_device: Device = "auto"
) -> int:
    """Predict all missing parts. Returns the number of texts.

    Args:
        job: what to predict.
        processes: processes on this machine that share the label rows.
        on_ray: predict with Ray Data actors, each with all label rows.
        ray_workers: number of actors; 0: one per GPU of the cluster if they use GPUs, else one per CPU.
        ray_device: device of the actors.

    Raises:
        StaleArtefactError: the output folder contains predictions of another job.
        ConfigError: the number of processes or workers is invalid.
        InUseError: another command writes to the output folder.
    """
    if processes < 1 or ray_workers < 0:
        field, number = ("--processes", processes) if processes < 1 else ("--ray-workers", ray_workers)
        raise ConfigError(field, number, "is too small", "Leave it out.")
    with locked(job.output):
        return _predict_file(job, processes, on_ray=on_ray, ray_workers=ray_workers, ray_device=ray_device)


def _predict_file(job: PredictionJob, processes: int, *, on_ray: bool, ray_workers: int, ray_device: Device) -> int:
    done = begin(job)
    if on_ray:
        if job.source.url == STDIN:
            raise ConfigError("--engine", "ray", "cannot read standard input", "Give a file that all workers can read.")
        from cxml.batch_prediction.ray_data import predict_on_ray  # noqa: PLC0415 - Ray is an optional package

        sizes = predict_on_ray(job, done, ray_workers, ray_device)
    elif processes > 1:
        if job.source.url == STDIN:
            raise ConfigError("--processes", processes, "cannot share standard input", "Give a file.")
        sizes = run_workers(predict_in_group, (job, done), processes)
    else:
        sizes = _predict_parts(job, done)
    num_texts = sum(sizes)
    storage.write_json(
        storage.join(job.output, artefacts.MANIFEST),
        {"format": "cxml-predictions", "version": 1, "parts": len(sizes), "texts": num_texts, "k": job.k},
    )
    return num_texts


def predict_stream(job: PredictionJob) -> Iterator[bytes]:
    """Yield the predictions of a job part by part, without writing them."""
    require_files(job)
    worker = Worker(job)
    for chunk in read_texts(job.source, job.part_rows):
        yield worker.predict(chunk)


def predict_in_group(job: PredictionJob, done: frozenset[int]) -> list[int]:
    """Predict in a process that shares the label rows with others. Returns the sizes of all parts."""
    with distributed() as ranks:
        set_up_logging(is_main=ranks.is_first)
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


def _parts(job: PredictionJob) -> Iterable[tuple[int, TextChunk]]:
    return enumerate(read_texts(job.source, job.part_rows))


def _predict_parts(job: PredictionJob, done: frozenset[int]) -> list[int]:
    """Predict the missing parts. Returns the sizes of all parts."""
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
