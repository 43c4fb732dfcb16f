"""Forks test workers from a process that has imported the packages, because the imports take longer than the work.

`run_workers` starts a new interpreter for each worker. It does so in `tests/parallel/test_workers.py` and wherever a
test starts a command. Where a test calls it in its own process, `_start` replaces `cxml.parallel.workers._start`.
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
    """Whether forked workers work: they cannot share the driver of a GPU, and not every system has a fork server."""
    return not torch.accelerator.is_available() and "forkserver" in multiprocessing.get_all_start_methods()


def use() -> None:
    """Make `run_workers` and `LoggedProcess` of this process fork their workers, where that works."""
    if can_copy():
        multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
        workers._start = _start


class LoggedProcess:
    """A process that calls a function, with the interface of `subprocess.Popen`."""

    def __init__(
        self, log: Path, environment: dict[str, str], target: Callable[..., object], *arguments: object
    ) -> None:
        """Start the process. Its output is appended to `log`, and `environment` is its whole environment."""
        context: Any = multiprocessing.get_context("forkserver" if can_copy() else "spawn")
        self._process = context.Process(target=_call, args=(log, environment, target, arguments))
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, negative for the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end of the process. Returns its exit code.

        Raises:
            TimeoutError: the process runs longer than `seconds`.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(self._process)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it still runs."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
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
    os.environ.clear()  # the fork server has the first test's; `run_worker` fills it
    worker.end_with_parent = _end_with_parent
    worker.run_worker(work, arguments, environment, outcome)


def _end_with_parent() -> None:
    """End with the process that asked for this one: to the kernel, the fork server is the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=operating_system._die_after, args=(parent.sentinel,), daemon=True).start()
