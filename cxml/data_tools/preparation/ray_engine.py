"""The blocks of a preparation as a Ray Data pipeline: a reader per split streams them to actors.

A block travels as one row of a Ray data set, in Arrow columns; Ray Data bounds how many wait in the object store. A
worker that dies is started again and its block done again, to the same bytes.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from cxml.data import Ragged
from cxml.data_tools.formats import Block
from cxml.data_tools.preparation.engines import Worker
from cxml.data_tools.preparation.work import RawRows, SplitEnd, Ticket, Tickets
from cxml.ray_cluster import joined_cluster, own_error


@contextmanager
def ray_engine(num_workers: int) -> Iterator[RayEngine]:
    """An engine on the run's Ray cluster (`cxml.ray_cluster`).

    Args:
        num_workers: actors that work on blocks; 0: one per CPU of the cluster.
    """
    with joined_cluster() as cpus:
        yield RayEngine(num_workers or cpus)


class RayEngine:
    """Runs the work of a preparation on `num_workers` actors."""

    def __init__(self, num_workers: int) -> None:
        self.threads_per_worker = 1  # there is a worker per core
        self._num_workers = num_workers

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """See `Engine`."""
        with _one_block_per_task():
            results = ray.data.read_datasource(_Items(items), num_cpus=0, override_num_blocks=len(items.parts))
            results = results.map_batches(
                _Worker,
                fn_constructor_args=(make_worker, arguments),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=self._num_workers),
                num_cpus=1,
            )
            try:
                for row in results.iter_rows():
                    yield row["result"]
            except Exception as error:
                raise own_error(error) from error


@contextmanager
def _one_block_per_task() -> Iterator[None]:
    """Ray Data neither merges nor splits blocks, keeps quiet, and reports a worker's own error."""
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    context.target_max_block_size, context.enable_progress_bars = 1, False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


class _Items(Datasource):
    """One read task per part."""

    def __init__(self, items: RawRows | Tickets) -> None:
        super().__init__()
        self._items = items

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:  # noqa: ANN401, ARG002
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(functools.partial(_read, self._items, part), unknown) for part in self._items.parts]


def _read(items: RawRows | Tickets, part: str) -> Iterable[pa.Table]:
    for item in items.read(part):
        yield _to_row(item)


class _Worker:
    """An actor: makes its function once and calls it on every block."""

    def __init__(self, make_worker: Callable[..., Worker], arguments: tuple[object, ...]) -> None:
        self._work = make_worker(*arguments)

    def __call__(self, row: pa.Table) -> dict[str, np.ndarray]:
        item = _from_row(row)
        result = np.empty(1, object)
        result[0] = item if isinstance(item, SplitEnd) else self._work(item)
        return {"result": result}


_ROW = pa.schema(
    [
        ("kind", pa.string()),
        ("split", pa.string()),
        ("number", pa.int64()),
        ("first_row", pa.int64()),
        ("skipped", pa.string()),
        ("texts", pa.large_list(pa.large_string())),
        ("label_values", pa.large_list(pa.int32())),
        ("label_offsets", pa.large_list(pa.int64())),
    ]
)
_Item = Block | Ticket | SplitEnd


def _to_row(item: _Item) -> pa.Table:
    """An item as the only row of a table."""
    is_end = isinstance(item, SplitEnd)
    place = (-1, -1) if is_end else (item.number, item.first_row)
    facts = [type(item).__name__, item.split, *place, json.dumps(item.skipped if is_end else {})]
    lists = (item.texts, item.labels.values, item.labels.offsets) if isinstance(item, Block) else ([], [], [])
    columns = [pa.array([fact], field.type) for fact, field in zip(facts, _ROW, strict=False)]
    for values, field in zip(lists, list(_ROW)[len(facts) :], strict=True):
        flat = pa.array(values, field.type.value_type)
        columns.append(pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), flat))
    return pa.Table.from_arrays(columns, schema=_ROW)


def _from_row(row: pa.Table) -> _Item:
    kind, split, number, first_row, skipped = (row[name][0].as_py() for name in _ROW.names[:5])
    if kind == SplitEnd.__name__:
        return SplitEnd(split, json.loads(skipped))
    if kind == Ticket.__name__:
        return Ticket(split, number, first_row)
    texts, values, offsets = (row[name][0].values for name in _ROW.names[5:])
    return Block(split, number, first_row, texts.to_pylist(), Ragged(values.to_numpy(), offsets.to_numpy()))
