"""Private parts of Ray, which is an optional package: functions import it when they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SEEN_IN = "2.60.0"
NAMES = (
    "ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
    "ray.serve._private.replica.add_port_to_grpc_server",
)


def clusters_switch() -> str:
    """The environment variable that says whether this machine may belong to a cluster of several."""
    from ray._private import ray_constants  # noqa: PLC0415

    return ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR


@contextmanager
def on_one_machine() -> Iterator[None]:
    """Let Ray take this machine meanwhile for one that never belongs to a cluster, whatever the environment says.

    It reads the environment once, which may have been before.
    """
    from ray._private import ray_constants  # noqa: PLC0415

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def open_no_replica_port() -> None:
    """Keep the Ray Serve replica of this process from listening for calls of other deployments."""
    from ray.serve._private import replica  # noqa: PLC0415

    replica.add_port_to_grpc_server = _no_port  # pyright: ignore[reportPrivateImportUsage]


def _no_port(server: object, address: str) -> int:  # noqa: ARG001
    return 0
