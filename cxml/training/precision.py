"""The number format of a training: the same in all processes and for the whole run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
import torch.distributed as dist

from cxml.accelerators import device_of, fast_precision
from cxml.checkpoint import read_checkpoint_manifest
from cxml.config import Config, Precision
from cxml.errors import DataError
from cxml.parallel import Ranks

_log = logging.getLogger(__name__)


def resolve_precision(config: Config, ranks: Ranks, offered: Sequence[str] = ()) -> Config:
    """The config with a `train.precision` other than `auto`; a collective call.

    A resumed run keeps the format of its checkpoint, also on another machine. A new run uses bf16 if every process
    supports fast bf16.

    Args:
        config: config of the run.
        ranks: the ranks of this process.
        offered: the checkpoints to resume from, best first.
    """
    if config.train.precision != "auto":
        return config
    everywhere = _fast_everywhere(ranks)
    found: list[Precision | None] = [None]
    if offered:
        found = [_precision_of(offered) if ranks.is_first else None]
        dist.broadcast_object_list(found)
    precision = found[0] or everywhere
    if ranks.is_first:
        _log.info("train.precision is auto: %s", _reason(precision, everywhere, is_resumed=found[0] is not None))
    return with_precision(config, precision)


def _fast_everywhere(ranks: Ranks) -> Precision:
    """bf16 if all processes support fast bf16, else fp32; a collective call."""
    own = fast_precision(ranks.device)
    if ranks.world_size == 1:
        return own
    num_fast = torch.tensor(int(own == "bf16"), device=ranks.device)
    dist.all_reduce(num_fast)
    return "bf16" if int(num_fast) == ranks.world_size else "fp32"


def precision_here(config: Config) -> Config:
    """The config with the `train.precision` of a new run on devices like this machine's."""
    return config if config.train.precision != "auto" else with_precision(config, fast_precision(device_of(0)))


def with_precision(config: Config, precision: Precision) -> Config:
    """The config with this `train.precision`."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))


def _reason(precision: Precision, everywhere: Precision, *, is_resumed: bool) -> str:
    if is_resumed and precision != everywhere:
        return f"{precision}, the run's format so far, although {everywhere} is faster here"
    if is_resumed:
        return f"{precision}, the run's format so far"
    if precision == "bf16":
        return "bf16, because this machine supports fast bf16"
    return "fp32, because not every process supports fast bf16"


def _precision_of(offered: Sequence[str]) -> Precision | None:
    """The format of the first readable checkpoint; None without one."""
    for url in offered:
        try:
            return "bf16" if read_checkpoint_manifest(url).run.config["train"]["precision"] == "bf16" else "fp32"
        except (DataError, KeyError):  # `resume` reports the error
            continue
    return None
