"""Workers as copies of a process that has loaded the packages: in the tests, loading them takes longer than the work.

`run_workers` starts a new interpreter for each worker. It does so in `tests/parallel/test_workers.py` and wherever a
test starts a command. Where a test calls it in its own process, `_start` stands in for `cxml.parallel.workers._start`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from cxml import operating_system
from cxml.parallel import worker, workers

new_interpreter = workers._start
LOADED = ["cxml.training", "transformers.models.bert.modeling_bert", "cxml.batch_prediction"]


def can_copy() -> bool:
    """Whether copies work: the driver of a GPU cannot be shared with them, and not every system has a fork server."""
    return not torch.accelerator.is_available() and "forkserver" in multiprocessing.get_all_start_methods()


def use() -> None:
    """From now on, `run_workers` and `LoggedProcess` of this process make copies where they work."""
    if can_copy():
        multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
        workers._start = _start


class LoggedProcess:
    """A process that calls a function, with an interface like that of `subprocess.Popen`."""

    def __init__(
        self, log: Path, environment: dict[str, str], target: Callable[..., object], *arguments: object
    ) -> None:
        """Start it; what it says is appended to `log`, and all of its environment is `environment`."""
        context: Any = multiprocessing.get_context("forkserver" if can_copy() else "spawn")
        self._process = context.Process(target=_call, args=(log, environment, target, arguments))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code, when it has ended.

        Raises:
            TimeoutError: it runs longer than this.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(self._process)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


def _call(log: Path, environment: dict[str, str], target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    with log.open("ab") as stream:
        for output in (1, 2):
            os.dup2(stream.fileno(), output)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def _start(
    work: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str]
) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    receiver, sender = cast(tuple[Connection, Connection], context.Pipe(duplex=False))
    process = context.Process(target=_run, args=(work, arguments, {**os.environ, **environment}, sender))
    with sender:
        operating_system.start_uninterrupted(process)
    return process, receiver


def _run(
    work: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str], outcome: Connection
) -> None:
    os.environ.clear()  # it is that of the first test; `run_worker` fills it
    worker.end_with_parent = _end_with_parent
    worker.run_worker(work, arguments, environment, outcome)


def _end_with_parent() -> None:
    """The kernel knows the server as this process's parent, and not the process that asked for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=operating_system._die_after, args=(parent.sentinel,), daemon=True).start()
