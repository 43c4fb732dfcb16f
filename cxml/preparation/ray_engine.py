"""Preparation on Ray: this process reads the blocks, and actors that live through both passes process them.

A dead actor is restarted and its block is processed again, with byte-identical results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import ray
from ray.actor import ActorHandle

from cxml.formats import Block
from cxml.preparation.engines import Worker
from cxml.preparation.work import RawRows, SplitEnd, Ticket, Tickets
from cxml.ray_cluster import joined_cluster, own_error

_BLOCKS_AT_ONCE = 2
"""Items per actor: one in progress, and one queued."""


@contextmanager
def ray_engine(num_workers: int) -> Iterator[RayEngine]:
    """An engine on the run's Ray cluster (`cxml.ray_cluster`).

    Args:
        num_workers: number of actors; 0: one per CPU of the cluster.
    """
    with joined_cluster() as cpus:
        engine = RayEngine(num_workers or cpus)
        try:
            yield engine
        finally:
            engine.close()


class RayEngine:
    """Runs a preparation on `num_workers` actors, which start immediately."""

    def __init__(self, num_workers: int) -> None:
        self.threads_per_worker = 1  # there is a worker per core
        self._actors = [cast(ActorHandle, _Actor.remote()) for _ in range(num_workers)]
        self._free: deque[ActorHandle] = deque()
        # Only actors that have responded get work, because the cluster may not have room for all.
        self._busy = {actor.start.remote(): actor for actor in self._actors for _ in range(_BLOCKS_AT_ONCE)}

    def map(
        self, items: RawRows | Tickets, make_worker: Callable[..., Worker], *arguments: object
    ) -> Iterator[Ticket | SplitEnd]:
        """See `PreparationEngine`."""
        making = [ray.put((make_worker, arguments))]
        given = done = 0
        for part in items.parts:
            for item in items.read(part):
                if isinstance(item, SplitEnd):
                    yield item
                    continue
                while not self._free:
                    for ticket in self._finished():
                        done += 1
                        yield ticket
                actor = self._free.popleft()
                self._busy[actor.work.remote(making, item)] = actor
                given += 1
        while done < given:
            for ticket in self._finished():
                done += 1
                yield ticket

    def _finished(self) -> Iterator[Ticket]:
        """Wait for an actor. Yields the ticket of its finished work, if it did not just start."""
        (ready,), _ = ray.wait(list(self._busy), num_returns=1)
        self._free.append(self._busy.pop(ready))
        try:
            ticket = ray.get(ready)
        except Exception as error:
            raise own_error(error) from error
        if ticket is not None:
            yield ticket

    def close(self) -> None:
        """Kill the actors."""
        for actor in self._actors:
            ray.kill(actor)


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class _Actor:
    """Creates a pass's function once and applies it to blocks."""

    def __init__(self) -> None:
        self._making: ray.ObjectRef | None = None

    def start(self) -> None:
        """Answer."""

    def work(self, making: list[ray.ObjectRef], item: Block | Ticket) -> Ticket:
        """Apply the function to an item; `making` refers to its maker and arguments."""
        if self._making != making[0]:
            make_worker, arguments = ray.get(making[0])
            self._work, self._making = make_worker(*arguments), making[0]
        return self._work(item)
