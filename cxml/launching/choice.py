"""Which way the processes of training and evaluation are started."""

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
"""`run_job(work, arguments, num_workers)`: what rank 0 of that many processes returned from `work(*arguments)`."""


def run_job_for(config: Config) -> RunJob:
    """Ray Train where the config asks for it, or leaves it open and a Ray cluster is at hand; else new processes here.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    launcher = config.launch.launcher
    if launcher == "local" or (launcher == "auto" and not ray_cluster.is_reachable()):
        return run_workers
    ray_cluster.require_ray("launch.launcher")
    from cxml.launching.on_ray import run_on_ray  # noqa: PLC0415 - Ray is an optional package

    _log.info("Processes run on Ray Train")
    return functools.partial(run_on_ray, config=config)
