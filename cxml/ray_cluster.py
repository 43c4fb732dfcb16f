"""The Ray cluster of a stage, and its errors."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cxml import extras, urls
from cxml.errors import CxmlError
from cxml.internals.ray import cluster_variable, on_one_machine
from cxml.stopping import handlers_kept

_log = logging.getLogger(__name__)


_NEEDED = ("ray", "pandas")  # Ray Data and Ray Train import pandas


def is_installed() -> bool:
    """Whether Ray and the dependencies of its libraries are installed."""
    return all(map(extras.is_installed, _NEEDED))


def require_ray(field: str) -> None:
    """Check that Ray is installed for the value "ray" of a config field.

    Raises:
        ConfigError: Ray is not installed.
    """
    extras.require(field, "ray", *_NEEDED, otherwise="use local")


def is_reachable() -> bool:
    """Whether this process already belongs to a Ray cluster, or RAY_ADDRESS names one.

    Raises:
        ConfigError: RAY_ADDRESS is set, but Ray is not installed.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        extras.require("RAY_ADDRESS", urls.masked(address), *_NEEDED, otherwise="unset it")
    if not is_installed():
        return False
    import ray  # noqa: PLC0415 - Ray is an optional package

    return ray.is_initialized() or bool(address)


@contextmanager
def joined_cluster(*, logs: bool = False) -> Iterator[int]:
    """Join the Ray cluster of this process or of RAY_ADDRESS, or start a temporary local cluster. Yields its CPUs.

    A local cluster listens only on the loopback interface, and sends no usage statistics. With `logs`, the output of
    workers is also printed here.
    """
    import ray  # noqa: PLC0415 - Ray is an optional package

    joined = ray.is_initialized()
    with contextlib.ExitStack() as stack:
        if not joined:
            _log.info("Connecting to Ray, or starting it on this machine")
            address = os.environ.get("RAY_ADDRESS") or "local"
            if address == "local":
                _provide_token()
                stack.enter_context(_on_loopback())
            with handlers_kept():
                ray.init(address, include_dashboard=False, log_to_driver=logs, logging_level=logging.WARNING)
            stack.callback(ray.shutdown)
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a Ray cluster started in this context listen on 127.0.0.1, require a token, and send no usage statistics.

    Ray resolves even a loopback address to another interface, unless clusters are disabled on this machine.
    """
    mine = {cluster_variable(): "0", "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in mine}
    os.environ |= mine
    try:
        with on_one_machine():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


Device = Literal["auto", "cpu", "gpu"]
"""Device of a worker; auto: a GPU if the cluster has one."""


def worker_resources(device: Device, cpus: float = 1.0, workers: int = 0) -> dict[str, float]:
    """Resources that a worker reserves on the joined cluster, by Ray's names, independent of this process's devices.

    Args:
        device: device of the worker.
        cpus: CPUs of the worker.
        workers: number of workers that share the GPUs of a cluster with fewer GPUs; 0 for one GPU each.
    """
    gpus = num_gpus()
    if device == "cpu" or (device == "auto" and not gpus):
        return {"CPU": cpus}
    return {"CPU": cpus, "GPU": 1 / max(1, math.ceil(workers / max(1, gpus)))}


def num_gpus() -> int:
    """Current number of GPUs of the joined cluster."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return int(ray.cluster_resources().get("GPU", 0))


def free_resources() -> dict[str, float]:
    """Unreserved resources of the joined cluster, by Ray's names."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return dict(ray.available_resources())


def is_lost() -> bool:
    """Whether the joined cluster considers this process's node dead. Calls then never return."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    own = ray.get_runtime_context().get_node_id()
    return not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def is_on_loopback() -> bool:
    """Whether the joined cluster consists of this machine only, and listens on its loopback interface."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes())


def room_on_one_node(resources: Mapping[str, float]) -> int:
    """Most workers with these resources that fit on one node of the joined cluster."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return max(
        int(min(node["Resources"].get(name, 0) / share for name, share in resources.items()))
        for node in ray.nodes()
        if node["Alive"]
    )


def _provide_token() -> None:
    """Pass a new cluster's token to its processes in the environment if the user has no home folder to store it."""
    try:
        file = Path("~/.ray/auth_token").expanduser()
        if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except (OSError, RuntimeError):  # no home folder, or it is unknown
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def own_error(error: BaseException) -> BaseException:
    """The error of cxml that Ray's error wraps, if any; else Ray's error."""
    for cause in causes(error):
        if isinstance(cause, CxmlError) and type(cause).__module__ == CxmlError.__module__:
            return cause
    return error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
