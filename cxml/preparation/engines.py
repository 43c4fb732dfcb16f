"""Who does the work on the blocks: this process, or Ray workers. The results are the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cxml.operating_system import num_cores
from cxml.preparation.work import RawRows, SplitEnd, Ticket, Tickets

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
