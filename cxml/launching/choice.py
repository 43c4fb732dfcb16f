"""Choose how to start the processes of training and evaluation."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from cxml import ray_cluster
from cxml.config import Config
from cxml.parallel import run_workers

_log = logging.getLogger(__name__)

RunJob = Callable[[Callable[..., Any], tuple[Any, ...], int], Any]
"""`run_job(work, arguments, num_workers)`: the result of `work(*arguments)` on rank 0 of `num_workers` processes."""


def run_job_for(config: Config) -> RunJob:
    """Ray Train if the config requests it, or leaves it open and a Ray cluster is available; else new local processes.

    Raises:
        ConfigError: Ray is requested but not installed.
    """
    if not _is_for_ray(config):
        return run_workers
    ray_cluster.require_ray("launch.launcher")
    from cxml.launching.on_ray import run_on_ray  # noqa: PLC0415 - Ray is an optional package

    _log.info("Processes run on Ray Train")
    return functools.partial(run_on_ray, config=config)


def processes_per_machine(config: Config) -> int:
    """Most processes of `train.num_workers` that `run_job_for` starts on one machine.

    Ray fills one machine before it uses the next. A cluster that is not started yet consists of this machine.
    """
    count = config.train.num_workers
    if not (_is_for_ray(config) and ray_cluster.is_reachable()):
        return count
    with ray_cluster.joined_cluster():
        per_worker = ray_cluster.worker_resources(config.launch.device, config.launch.cpus_per_worker)
        return min(count, max(1, ray_cluster.room_on_one_node(per_worker)))


def _is_for_ray(config: Config) -> bool:
    launcher = config.launch.launcher
    return launcher == "ray" or (launcher == "auto" and ray_cluster.is_reachable())
