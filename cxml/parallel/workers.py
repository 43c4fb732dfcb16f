"""Start worker processes on this machine, without a cluster or a server."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def run_workers(work: Callable[..., None], arguments: tuple[object, ...], num_workers: int) -> None:
    """Run `work(*arguments)` in `num_workers` processes that form one process group; here and now if that is one.

    Args:
        work: a function at module level, so that a new process can import it.
        arguments: picklable values.
        num_workers: processes; the first failure ends them all and is raised with its traceback.
    """
    if num_workers == 1:
        work(*arguments)
        return
    launch = LaunchConfig(
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
    )
    elastic_launch(launch, work)(*arguments)
