"""Start worker processes on this machine, without a cluster or a server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cxml.errors import WorkerError

_T = TypeVar("_T")


def run_workers(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int) -> _T:
    """Run `work(*arguments)` in `num_workers` new processes that form one process group.

    Args:
        work: a function at module level, so that a new process can import it.
        arguments: picklable values.
        num_workers: processes; the first failure ends them all.

    Returns:
        What rank 0 returned, which must be picklable.

    Raises:
        WorkerError: a process failed; carries the first failure's traceback.

    SIGTERM and SIGUSR1 are passed on to the processes, which end when and how they see fit.
    """
    # Threads that wait for each other spin by default, which costs several times the speed where others work too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory(prefix="cxml-workers-") as logs, _passing_on(signal.SIGTERM, signal.SIGUSR1):
        try:
            return elastic_launch(_launch(num_workers, logs), work)(*arguments)[0]
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise WorkerError(f"Process {rank} of {num_workers} failed. {_account(failure)}") from None


def _launch(num_workers: int, logs: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_workers,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
        # Without SIGTERM: torch would end the processes 30 seconds later, whether they have saved their state or not.
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
        logs_specs=DefaultLogsSpecs(log_dir=logs),  # else torch leaves a folder of its own behind
    )


@contextmanager
def _passing_on(*numbers: signal.Signals) -> Iterator[None]:
    """Hand these signals to the worker processes instead of dying of them; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _account(failure: ProcessFailure) -> str:
    """What a dead process left to say: its exception, with the traceback unless cxml raised it on purpose."""
    message = failure.message
    if not isinstance(message, dict):
        return str(message)
    summary, traceback = message.get("message", ""), message.get("extraInfo", {}).get("py_callstack", "")
    return summary if "\ncxml.errors." in traceback else f"{summary}\n{traceback}"
