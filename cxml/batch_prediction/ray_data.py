"""A prediction job with Ray Data: one task streams the parts, actors predict them and write their files."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from cxml import storage
from cxml.batch_prediction.job import PredictionJob
from cxml.batch_prediction.worker import Worker
from cxml.formats import TextChunk, read_texts
from cxml.ray_cluster import Device, joined_cluster, num_gpus, own_error, worker_resources


def predict_on_ray(job: PredictionJob, done: frozenset[int], num_workers: int, device: Device) -> list[int]:
    """Predict the parts that are not in `done`. Returns the sizes of all parts, in order.

    Args:
        job: what to predict.
        done: finished parts.
        num_workers: number of actors; 0: one per GPU if they use GPUs, else one per CPU, minus one to read the texts.
        device: device of the actors.
    """
    with joined_cluster() as cpus:
        resources = worker_resources(device, workers=num_workers)
        most = min(cpus - 1, num_gpus()) if "GPU" in resources else cpus - 1
        context = DataContext.get_current()
        before = context.target_max_block_size, context.enable_progress_bars
        context.target_max_block_size, context.enable_progress_bars = 1, False  # a part is a block
        try:
            parts = ray.data.read_datasource(_Parts(job, done), override_num_blocks=1)
            results = parts.map_batches(
                _Actor,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=num_workers or max(1, most)),
                num_cpus=resources["CPU"],
                num_gpus=resources.get("GPU", 0),
            )
            sizes = {row["part"]: row["size"] for row in results.iter_rows()}
        except Exception as error:
            raise own_error(error) from error
        finally:
            context.target_max_block_size, context.enable_progress_bars = before
    return [sizes[part] for part in sorted(sizes)]


class _Parts(Datasource):
    """One read task, which streams the parts."""

    def __init__(self, job: PredictionJob, done: frozenset[int]) -> None:
        super().__init__()
        self._job = job
        self._done = done

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:  # noqa: ANN401, ARG002
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(functools.partial(_read, self._job, self._done), unknown)]


def _read(job: PredictionJob, done: frozenset[int]) -> Iterator[pa.Table]:
    for part, chunk in enumerate(read_texts(job.source, job.part_rows)):
        texts = [] if part in done else chunk.texts
        columns = {
            "part": [part],
            "first": [chunk.first],
            "size": [len(chunk.texts)],
            "texts": pa.array([texts], pa.list_(pa.large_string())),
            "keys": pa.array([chunk.keys if texts else None], pa.list_(pa.large_string())),
        }
        yield pa.table(columns)


class _Actor:
    """Predicts parts, once it has loaded the model."""

    def __init__(self, job: PredictionJob) -> None:
        self._job = job
        self._worker = Worker(job)

    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        row = batch.to_pylist()[0]
        if row["texts"]:
            chunk = TextChunk(row["first"], row["texts"], row["keys"])
            storage.write_atomic(self._job.part_file(row["part"]), self._worker.predict(chunk))
        return {"part": np.array([row["part"]]), "size": np.array([row["size"]])}
