"""The process group of a training or prediction job: ranks, backend and device in one object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """Who this process is. No other module does arithmetic on environment variables.

    Attributes:
        rank: this process among all, from 0.
        world_size: processes in all.
        local_rank: this process among those of its machine.
        device: where this process computes.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: logs, reports, writes what only one may write."""
        return self.rank == 0


@contextmanager
def distributed(threads: int = 0) -> Iterator[Ranks]:
    """Join the process group that the launcher's environment names (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    `run_workers`, torchrun and the deepspeed launcher all set it. The group ends with the `with` block, and with it
    the process's use of DeepSpeed, which holds on to the first group it met: one group per process.

    Args:
        threads: CPU threads of this process; 0 shares the machine's cores evenly over its processes.
    """
    ranks = _ranks_from_environment()
    torch.set_num_threads(threads or max(1, _num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        torch.accelerator.set_device_index(ranks.local_rank)
    backend = "gloo" if ranks.device.type == "cpu" else dist.get_default_backend_for_device(ranks.device)
    dist.init_process_group(backend)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _num_cores() -> int:
    return len(psutil.Process().cpu_affinity() or []) or os.cpu_count() or 1


def _ranks_from_environment() -> Ranks:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        device=torch.device("cpu") if accelerator is None else torch.device(accelerator.type, local_rank),
    )
