"""Who does the work on the blocks: this process, or Ray workers. The results are the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from cxml import ray_cluster
from cxml.config import DataConfig
from cxml.data_tools.preparation.work import RawRows, SplitEnd, Ticket, Tickets
from cxml.operating_system import num_cores

# From about here on the start of Ray is won back on a machine with many cores (docs/decisions/).
_RAY_PAYS_BYTES = 256 << 20
_BLOCKS_AT_ONCE = 2

Worker = Callable[..., Ticket]
"""What a pass does with a block or a ticket."""


class Engine(Protocol):
    """Reads items and does something with each.

    Attributes:
        threads_per_worker: how many threads of compiled code a worker should have at once.
    """

    threads_per_worker: int

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """Results in any order; the ends of splits pass through.

        Args:
            items: what to read.
            make_worker: called once in each process; gives the function that is called on every item.
            arguments: for `make_worker`.
        """
        ...


class LocalEngine:
    """Two items at a time in this process: one's tokenizer, on all cores, runs while Python works on the other."""

    def __init__(self) -> None:
        self.threads_per_worker = 1 + num_cores()  # one of them waits for the interpreter

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """See `Engine`."""
        work = make_worker(*arguments)
        waiting: deque[Future[Ticket]] = deque()
        with ThreadPoolExecutor(_BLOCKS_AT_ONCE) as pool:
            for part in items.parts:
                for item in items.read(part):
                    if isinstance(item, SplitEnd):
                        yield item
                        continue
                    if len(waiting) == _BLOCKS_AT_ONCE:
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()


def open_engine(data: DataConfig, source: dict[str, Any]) -> AbstractContextManager[Engine]:
    """The engine that the config asks for, or the one that pays.

    Args:
        data: the config's section.
        source: facts about the raw data, with the sizes of its files.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    raw_bytes = sum(file["bytes"] for file in source.get("files", {}).values())
    if data.engine == "ray":
        ray_cluster.require_ray("data.engine")
    if data.engine == "ray" or (data.engine == "auto" and ray_cluster.is_installed() and raw_bytes >= _RAY_PAYS_BYTES):
        from cxml.data_tools.preparation.ray_engine import ray_engine  # noqa: PLC0415 - Ray takes seconds to load

        return ray_engine(data.num_workers)
    return nullcontext(LocalEngine())
