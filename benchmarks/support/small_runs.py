"""Runs of `--quick` in this process, since starting other processes would take most of their time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from cxml.parallel import begin_group

_T = TypeVar("_T")


def run_here(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int) -> _T:  # noqa: ARG001
    """Replace `cxml.parallel.run_workers` by this process. Its group is kept, since DeepSpeed keeps the first group."""
    if not dist.is_initialized():
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")  # DeepSpeed reads them
        begin_group(torch.device("cpu"), 0, init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    return work(*arguments)
