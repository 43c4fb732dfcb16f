"""Who does the work on the blocks: this process, or Ray workers. The results are the same."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from cxml.config import DataConfig
from cxml.errors import ConfigError
from data_tools.formats import Block
from data_tools.preparation.work import RawRows, SplitEnd

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

# From about here on the start of Ray is won back on a machine with many cores (docs/decisions/).
_RAY_PAYS_BYTES = 256 << 20


class Engine(Protocol):
    """Reads raw rows and does something with each block."""

    def map(
        self, rows: RawRows, make_worker: Callable[..., Callable[[Block], _Result]], *arguments: object
    ) -> Iterator[_Result | SplitEnd]:
        """Results in any order, and an end of each split, not always the last of its items.

        Args:
            rows: what to read.
            make_worker: called once in each process; gives the function that is called on every block.
            arguments: for `make_worker`.
        """
        ...


class LocalEngine:
    """Block after block in this process; the tokenizer still uses all cores."""

    def map(
        self, rows: RawRows, make_worker: Callable[..., Callable[[Block], _Result]], *arguments: object
    ) -> Iterator[_Result | SplitEnd]:
        """See `Engine`."""
        work = make_worker(*arguments)
        for split in rows.splits:
            for item in rows.read(split):
                yield item if isinstance(item, SplitEnd) else work(item)


def open_engine(data: DataConfig, source: dict[str, Any]) -> AbstractContextManager[Engine]:
    """The engine that the config asks for, or the one that pays.

    Args:
        data: the config's section.
        source: facts about the raw data, with the sizes of its files.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    raw_bytes = sum(file["bytes"] for file in source.get("files", {}).values())
    has_ray = importlib.util.find_spec("ray") is not None
    if data.engine == "ray" and not has_ray:
        raise ConfigError("data.engine", "ray", "Ray is not installed", "pip install 'cxml[train]', or use local.")
    if data.engine == "ray" or (data.engine == "auto" and has_ray and raw_bytes >= _RAY_PAYS_BYTES):
        from data_tools.preparation.ray_engine import ray_engine  # noqa: PLC0415 - Ray takes seconds to load

        return ray_engine(data.num_workers)
    return nullcontext(LocalEngine())
