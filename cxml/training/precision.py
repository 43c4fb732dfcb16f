"""The number format in which a run trains: alike in all of its processes, and the same for as long as it lasts."""

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


def settle_precision(config: Config, ranks: Ranks, offered: Sequence[str] = ()) -> Config:
    """The config with a `train.precision` other than `auto`; a collective call.

    A run that goes on keeps the format of its checkpoint, on another machine too. A new one takes bf16 where every
    process computes fast in it.

    Args:
        config: of the run.
        ranks: this process's place.
        offered: the checkpoints to go on from, the best first.
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
    """bf16 where all processes compute fast in it; a collective call."""
    own = fast_precision(ranks.device)
    if ranks.world_size == 1:
        return own
    num_fast = torch.tensor(int(own == "bf16"), device=ranks.device)
    dist.all_reduce(num_fast)
    return "bf16" if int(num_fast) == ranks.world_size else "fp32"


def precision_here(config: Config) -> Config:
    """The config with the `train.precision` that a new run takes if all of its devices are like this machine's."""
    return config if config.train.precision != "auto" else with_precision(config, fast_precision(device_of(0)))


def with_precision(config: Config, precision: Precision) -> Config:
    """The config with this `train.precision`."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))


def _reason(precision: Precision, everywhere: Precision, *, is_resumed: bool) -> str:
    if is_resumed and precision != everywhere:
        return f"{precision}, as the run began, though {everywhere} is faster here"
    if is_resumed:
        return f"{precision}, as the run began"
    if precision == "bf16":
        return "bf16, in which this machine computes fast"
    return "fp32, as not every process computes fast in bf16"


def _precision_of(offered: Sequence[str]) -> Precision | None:
    """The format that the first checkpoint that can be read was trained in; None without any."""
    for url in offered:
        try:
            return "bf16" if read_checkpoint_manifest(url).run.config["train"]["precision"] == "bf16" else "fp32"
        except (DataError, KeyError):  # `resume` says what is wrong with it
            continue
    return None
