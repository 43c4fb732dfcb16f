"""Which engine works on the blocks: the one that the config asks for, or the one that pays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cxml import ray_cluster
from cxml.config import DataConfig
from cxml.preparation.engines import LocalEngine, PreparationEngine

# From about this size on, Ray saves more time than its start takes on a machine with many cores (docs/decisions/).
_MIN_RAY_BYTES = 256 << 20


def open_engine(data: DataConfig, source: dict[str, Any]) -> AbstractContextManager[PreparationEngine]:
    """The configured engine, or the faster one for `auto`.

    Args:
        data: the config's section.
        source: facts about the raw data, with the sizes of its files.

    Raises:
        ConfigError: Ray is requested but not installed.
    """
    raw_bytes = sum(file["bytes"] for file in source.get("files", {}).values())
    if data.engine == "ray":
        ray_cluster.require_ray("data.engine")
    if data.engine == "ray" or (data.engine == "auto" and ray_cluster.is_installed() and raw_bytes >= _MIN_RAY_BYTES):
        from cxml.preparation.ray_engine import ray_engine  # noqa: PLC0415 - Ray takes seconds to load

        return ray_engine(data.num_workers)
    return nullcontext(LocalEngine())
