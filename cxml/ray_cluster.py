"""The Ray cluster that a stage of a run works on, and what went wrong there."""

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
from cxml.internals.ray import clusters_switch, on_one_machine
from cxml.stopping import handlers_kept

_log = logging.getLogger(__name__)


_NEEDED = ("ray", "pandas")  # Ray Data and Ray Train import pandas


def is_installed() -> bool:
    """Whether Ray and what its libraries need are there."""
    return all(map(extras.is_installed, _NEEDED))


def require_ray(field: str) -> None:
    """Refuse the value "ray" of a config field where Ray is not installed.

    Raises:
        ConfigError: it is not.
    """
    extras.require(field, "ray", *_NEEDED, otherwise="use local")


def is_reachable() -> bool:
    """Whether this process belongs to a Ray cluster already, or RAY_ADDRESS names one.

    Raises:
        ConfigError: RAY_ADDRESS names one, and Ray is not installed.
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
    """The Ray cluster of this process, of RAY_ADDRESS, or one that lives as long as the context. Yields its CPUs.

    A cluster that is started here listens on the loopback interface only, and sends no usage statistics. With `logs`,
    what workers print is printed here as well.
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
    """Have the Ray that is started meanwhile listen on 127.0.0.1, ask for a token, and tell nobody about itself.

    Ray resolves even a loopback address to that of another interface, except where it takes this machine for one that
    never belongs to a cluster.
    """
    mine = {clusters_switch(): "0", "RAY_USAGE_STATS_ENABLED": "0"}
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
"""What a worker computes on; auto: a GPU where the cluster has any."""


def worker_resources(device: Device, cpus: float = 1.0, workers: int = 0) -> dict[str, float]:
    """What a worker reserves on the joined cluster, by Ray's names of resources. This process's devices say nothing.

    Args:
        device: what it computes on.
        cpus: CPUs beside it.
        workers: how many share the GPUs of a cluster that has fewer; 0: each has one of its own.
    """
    gpus = num_gpus()
    if device == "cpu" or (device == "auto" and not gpus):
        return {"CPU": cpus}
    return {"CPU": cpus, "GPU": 1 / max(1, math.ceil(workers / max(1, gpus)))}


def num_gpus() -> int:
    """GPUs of the joined cluster, as it is now."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return int(ray.cluster_resources().get("GPU", 0))


def free_resources() -> dict[str, float]:
    """What the joined cluster has that nobody has reserved, by Ray's names of resources."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return dict(ray.available_resources())


def is_lost() -> bool:
    """Whether this process's node of the joined cluster has died, as the cluster sees it: no call comes back then."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    own = ray.get_runtime_context().get_node_id()
    return not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def is_on_loopback() -> bool:
    """Whether the joined cluster is this machine alone, and listens on its loopback interface."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in ray.nodes())


def room_on_one_node(resources: Mapping[str, float]) -> int:
    """How many workers that reserve these resources fit on the node of the joined cluster that has most room."""
    import ray  # noqa: PLC0415 - Ray is an optional package

    return max(
        int(min(node["Resources"].get(name, 0) / share for name, share in resources.items()))
        for node in ray.nodes()
        if node["Alive"]
    )


def _provide_token() -> None:
    """Give a new cluster's token to its processes by the environment, where the user has no home to keep it in."""
    try:
        file = Path("~/.ray/auth_token").expanduser()
        if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except (OSError, RuntimeError):  # no such folder, or nobody knows where this user's home is
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def own_error(error: BaseException) -> BaseException:
    """The error that cxml raised in a worker, if that is what Ray's wraps; else Ray's."""
    for cause in causes(error):
        if isinstance(cause, CxmlError) and type(cause).__module__ == CxmlError.__module__:
            return cause
    return error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
