"""The workers as Ray actors: assigns tasks to them, and replaces dead workers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

from cxml.errors import WorkerError
from cxml.ray_cluster import causes, own_error
from cxml.tree.distributed.holder import RowHolder
from cxml.tree.distributed.parts import Job

_log = logging.getLogger(__name__)
_Task = TypeVar("_Task")

_LOSSES = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
_MOST_LOSSES = 20
ROWS = "rows"
"""Concurrency group of calls that return rows while the worker is busy with another task."""


class Fleet:
    """One `RowHolder` per block of starting positions. Use it in a `with` block."""

    def __init__(self, job: Job, count: int, cpus: int) -> None:
        """Start `count` workers, at most one per label, on a cluster with `cpus` CPUs."""
        count = min(count, job.num_labels)
        self.blocks = [(job.num_labels * i // count, job.num_labels * (i + 1) // count) for i in range(count)]
        """The starting positions of each worker."""
        share = min(1.0, cpus / count)  # more workers than CPUs share them
        options: dict[str, Any] = {"num_cpus": share, "concurrency_groups": {ROWS: 1}}
        self._class: Any = ray.remote(**options)(RowHolder)
        self._job, self._losses = ray.put(job), 0
        self.restore: Callable[[ActorHandle, int], ray.ObjectRef | None] = lambda *_: None
        """Restores the state of the dead worker of this number in a new one."""
        self.actors = [self._start(number) for number in range(count)]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self.actors:
            ray.kill(actor)

    def run_tasks(
        self, tasks: Iterable[_Task], submit: Callable[[ActorHandle, _Task], ray.ObjectRef]
    ) -> Iterator[tuple[_Task, Any]]:
        """Give each worker a task, and the next one when it is done. Yields tasks and results as they complete."""
        waiting, idle = deque(tasks), deque(range(len(self.actors)))
        running: dict[ray.ObjectRef, tuple[int, _Task]] = {}
        while waiting or running:
            while waiting and idle:
                number, task = idle.popleft(), waiting.popleft()
                running[submit(self.actors[number], task)] = number, task
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            number, task = running.pop(done)
            idle.append(number)
            try:
                result = ray.get(done)
            except RayError as error:
                self.recover(error)
                waiting.appendleft(task)
                continue
            yield task, result

    def recover(self, error: RayError) -> None:
        """Replace the dead workers.

        Raises:
            CxmlError: the error that a worker raised, if `error` wraps one.
            WorkerError: workers die repeatedly.
        """
        own = own_error(error)
        if own is not error:
            raise own from error
        if not any(isinstance(cause, _LOSSES) for cause in causes(error)):
            raise error
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            problem = f"workers of the tree died {self._losses} times, last: {error}"
            raise WorkerError(f"{problem}. See Ray's logs. If memory is short, use fewer workers.") from error
        dead = [number for number, actor in enumerate(self.actors) if not _is_alive(actor)]
        for number in dead:
            _log.warning("Worker %d of the label tree died and is being replaced", number)
            ray.kill(self.actors[number])
            self.actors[number] = self._start(number)
        try:
            ray.get([ref for number in dead if (ref := self.restore(self.actors[number], number)) is not None])
        except RayError as again:
            self.recover(again)

    def _start(self, number: int) -> ActorHandle:
        return self._class.remote(self._job, *self.blocks[number])


def _is_alive(actor: ActorHandle) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote())
    except RayActorError:
        return False
    return True
