"""Start worker processes on this machine without a cluster, a server or a port."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

from cxml.errors import InterruptionError, WorkerError
from cxml.operating_system import start_uninterrupted
from cxml.parallel.process_group import rank_environment
from cxml.parallel.signal_relay import SignalRelay
from cxml.parallel.worker import Failure, Outcome, Success, run_worker

_T = TypeVar("_T")

_LISTENING_SECONDS = 5.0  # after a failure: the one that is heard first need not be the one that caused the others
_ENDING_SECONDS = 30.0  # what workers have to end after SIGTERM, before SIGKILL


def run_workers(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int) -> _T:
    """Run `work(*arguments)` in `num_workers` new processes that form one process group.

    The processes find each other through a file that only this user can read, and talk over the loopback interface.
    They end with this process, even if it is killed.

    Args:
        work: a function at module level, so that a new process can import it.
        arguments: picklable values.
        num_workers: processes; the first failure ends them all.

    Returns:
        What rank 0 returned, which must be picklable.

    Raises:
        WorkerError: a process failed; contains the first failure's traceback.
        InterruptionError: SIGTERM or SIGUSR1 ended a process.
        KeyboardInterrupt: SIGINT arrived, and the processes have ended.

    SIGTERM and SIGUSR1 are forwarded to the processes, which handle them. SIGINT sends them SIGTERM, and a second
    SIGINT kills them.
    """
    # Waiting threads spin by default, which slows training several times on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    processes: list[BaseProcess] = []
    relay = SignalRelay(processes)
    with tempfile.TemporaryDirectory(prefix="cxml-workers-") as folder, relay.at_work():
        try:
            connections = []
            for rank in range(num_workers):
                environment = rank_environment(rank, num_workers, folder)
                process, connection = _start(work, arguments, environment)
                processes.append(process)
                connections.append(connection)
                relay.catch_up(process)
            outcomes = _outcomes(processes, connections)
        finally:
            _end(processes)
    failures = _failures(outcomes)
    was_stopped = any(-(processes[rank].exitcode or 0) in relay.passed_on for rank in failures)
    if relay.first is signal.SIGINT and (was_stopped or not failures):
        raise KeyboardInterrupt
    if was_stopped:
        raise InterruptionError("A signal stopped the work. Run the same command again to resume.")
    if failures:
        rank = min(failures, key=lambda rank: failures[rank].time)
        raise WorkerError(f"Process {rank} of {num_workers} failed. {failures[rank].account}")
    return cast(_T, cast(Success, outcomes[0]).result)


def run_here(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int) -> _T:
    """`run_workers` for one process, in this process, without a new process and import of the main module.

    The environment describes a single process during the work.
    """
    assert num_workers == 1, num_workers
    with tempfile.TemporaryDirectory(prefix="cxml-here-") as folder:
        own = rank_environment(0, 1, folder)
        before = {name: os.environ.get(name) for name in own}
        os.environ |= own
        try:
            return work(*arguments)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _start(
    work: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str]
) -> tuple[BaseProcess, Connection]:
    """Start a worker. Returns it with the connection for its outcome, which closes when the worker ends."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = cast(tuple[Connection, Connection], context.Pipe(duplex=False))
    process = context.Process(target=run_worker, args=(work, arguments, environment, sender))
    with sender:
        start_uninterrupted(process)
    return process, receiver


def _outcomes(processes: list[BaseProcess], connections: list[Connection]) -> dict[int, Outcome]:
    """The outcomes by rank: of all, or after a failure of those that arrive soon."""
    outcomes: dict[int, Outcome] = {}
    deadline = math.inf
    while len(outcomes) < len(processes) and time.monotonic() < deadline:
        waiting = [connection for rank, connection in enumerate(connections) if rank not in outcomes]
        timeout = None if deadline == math.inf else deadline - time.monotonic()
        for ready in multiprocessing.connection.wait(waiting, timeout):
            rank = connections.index(cast(Connection, ready))
            outcomes[rank] = _outcome(processes[rank], connections[rank])
        if _failures(outcomes):
            deadline = min(deadline, time.monotonic() + _LISTENING_SECONDS)
    if not _failures(outcomes):
        _wait(processes)
    return outcomes


def _failures(outcomes: dict[int, Outcome]) -> dict[int, Failure]:
    return {rank: outcome for rank, outcome in outcomes.items() if isinstance(outcome, Failure)}


def _outcome(process: BaseProcess, connection: Connection) -> Outcome:
    """The outcome of a worker, or a failure from its exit code if it sent none."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        process.join()
    code = process.exitcode or 0
    account = f"It ended with exit code {code}." if code >= 0 else f"{signal.Signals(-code).name} ended it."
    # A process that loses its peers raises an error or aborts. Other exits have their own cause.
    return Failure(account, time.monotonic() if code == -signal.SIGABRT else 0.0)


def _end(processes: list[BaseProcess]) -> None:
    """End the running processes, with SIGTERM first."""
    for process in processes:
        process.terminate()
    _wait(processes)
    for process in processes:
        process.kill()
        process.join()


def _wait(processes: list[BaseProcess]) -> None:
    """Wait for processes to end, with a timeout."""
    deadline = time.monotonic() + _ENDING_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
