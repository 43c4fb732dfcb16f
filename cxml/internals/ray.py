"""Private parts of Ray. Ray is an optional package, so functions import it when they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SEEN_IN = "2.60.0"
NAMES = (
    "ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
    "ray.serve._private.replica.add_port_to_grpc_server",
)


def cluster_variable() -> str:
    """The environment variable that enables clusters of several machines."""
    from ray._private import ray_constants  # noqa: PLC0415

    return ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR


@contextmanager
def on_one_machine() -> Iterator[None]:
    """Within this context, Ray does not use clusters of several machines, regardless of the environment.

    Ray reads the environment only once, possibly before this call.
    """
    from ray._private import ray_constants  # noqa: PLC0415

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def open_no_replica_port() -> None:
    """Prevent the Ray Serve replica of this process from listening for calls of other deployments."""
    from ray.serve._private import replica  # noqa: PLC0415

    replica.add_port_to_grpc_server = _no_port  # pyright: ignore[reportPrivateImportUsage]


def _no_port(server: object, address: str) -> int:  # noqa: ARG001
    return 0
