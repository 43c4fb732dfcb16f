"""Engines for the work on the blocks: this process, or Ray workers, with the same results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cxml.operating_system import num_cores
from cxml.preparation.work import RawRows, SplitEnd, Ticket, Tickets

_BLOCKS_AT_ONCE = 2

Worker = Callable[..., Ticket]
"""The function of a pass on a block or a ticket."""


class PreparationEngine(Protocol):
    """Reads items and applies a function to each.

    Attributes:
        threads_per_worker: threads of compiled code per worker.
    """

    threads_per_worker: int

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """Yield results in any order; ends of splits are passed through.

        Args:
            items: items to read.
            make_worker: called once in each process; returns the function to apply to every item.
            arguments: arguments of `make_worker`.
        """
        ...


class LocalEngine:
    """Processes two items concurrently: the tokenizer of one uses all cores while Python works on the other."""

    def __init__(self) -> None:
        self.threads_per_worker = 1 + num_cores()  # one of them waits for the GIL

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """See `PreparationEngine`."""
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
