"""Workers as copies of a process that has loaded the packages: in the tests, loading them takes longer than the work.

`run_workers` starts a new interpreter for each worker, and does so in `tests/parallel/test_workers.py` and wherever a
test starts a command. Where a test calls it in its own process, `_start` stands in for `cxml.parallel.workers._start`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from cxml import operating_system
from cxml.parallel import worker, workers

new_interpreter = workers._start
LOADED = ["cxml.training", "transformers.models.bert.modeling_bert", "cxml.batch_prediction"]


def use() -> None:
    """From now on, `run_workers` of this process makes copies."""
    # The driver of a GPU cannot be shared with copies, and a platform without a fork server makes none.
    if not torch.accelerator.is_available() and "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
        workers._start = _start


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
    os.environ.clear()  # it is that of the first test
    worker.end_with_parent = _end_with_parent
    worker.run_worker(work, arguments, environment, outcome)


def _end_with_parent() -> None:
    """The kernel knows the server as this process's parent, and not the process that asked for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=operating_system._die_after, args=(parent.sentinel,), daemon=True).start()
