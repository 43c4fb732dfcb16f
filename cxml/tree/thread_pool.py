"""Threads for compiled kernels, which release Python's GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from cxml.operating_system import num_cores


def default_threads() -> int:
    """OMP_NUM_THREADS if set, else the number of cores that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else num_cores()


class ThreadPool:
    """A pool of threads. Use it in a `with` block."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call `function` with each tuple of arguments in parallel. Returns the results in order.

        Raises:
            Exception: the first exception of a call.
        """
        futures = [self._pool.submit(function, *each) for each in arguments]
        return [future.result() for future in futures]

    def run_growing(
        self, function: Callable[..., Iterable[tuple[Any, ...]]], arguments: Iterable[tuple[Any, ...]]
    ) -> None:
        """Call `function` with each tuple of arguments, and with each tuple that a call returns.

        Raises:
            Exception: the first exception of a call.
        """
        waiting = {self._pool.submit(function, *each) for each in arguments}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {self._pool.submit(function, *each) for one in done for each in one.result()}

    def parts(self, count: int) -> list[tuple[int, int]]:
        """Split 0..count into ranges, one per thread."""
        return [(count * i // self.threads, count * (i + 1) // self.threads) for i in range(self.threads)]
