"""The Ray cluster that a stage of a run works on, and what went wrong there."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxml import extras
from cxml.errors import CxmlError

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
    """Whether this process belongs to a Ray cluster already, or RAY_ADDRESS names one."""
    if not is_installed():
        return False
    import ray  # noqa: PLC0415 - Ray is an optional package

    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def joined_cluster(*, logs: bool = False) -> Iterator[int]:
    """The Ray cluster of this process, of RAY_ADDRESS, or one that lives as long as the context. Yields its CPUs.

    With `logs`, what workers print is printed here as well.
    """
    import ray  # noqa: PLC0415 - Ray is an optional package

    joined = ray.is_initialized()
    if not joined:
        _log.info("Connecting to Ray, or starting it on this machine")
        if not os.environ.get("RAY_ADDRESS"):
            _provide_token()
        ray.init(include_dashboard=False, log_to_driver=logs, logging_level=logging.WARNING)
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if not joined:
            ray.shutdown()


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
