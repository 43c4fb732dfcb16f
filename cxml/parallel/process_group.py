"""The process group of a training or prediction job: ranks, backend and device in one object."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from cxml.accelerators import bound_caches, device_of, use_device
from cxml.errors import LaunchError
from cxml.internals.torch import process_groups, set_timeout
from cxml.operating_system import num_cores
from cxml.parallel.worker import note_failure

_RENDEZVOUS = "CXML_RENDEZVOUS"  # the folder in which the workers of `run_workers` find each other
_group_numbers = itertools.count()


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
def distributed(threads: int = 0, hang_minutes: float = 0.0) -> Iterator[Ranks]:
    """Join the process group that the environment names: that of `run_workers`, or of MASTER_ADDR and MASTER_PORT.

    A group that is there already (Ray Train's, or that of `launch/train.py`) is used and left alone. Else the group
    ends with the `with` block, and with it the process's use of DeepSpeed, which holds on to the first group it met:
    one group with DeepSpeed per process.

    Args:
        threads: CPU threads of this process; 0 shares the machine's cores evenly over its processes.
        hang_minutes: how long a collective waits for the others before it fails; 0: for ever.
    """
    ranks = _ranks_from_environment()
    torch.set_num_threads(threads or max(1, num_cores() // local_world_size()))
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        bound_caches()
    use_device(ranks.device)
    if dist.is_initialized():
        yield ranks
        return
    begin_group(ranks.device, hang_minutes, **_meeting_place(ranks))
    try:
        yield ranks
    except BaseException as error:
        note_failure(error)  # before the other ranks can notice, and fail for want of this one
        raise
    finally:
        dist.destroy_process_group()


def begin_group(device: torch.device, hang_minutes: float, **place: Any) -> None:  # noqa: ANN401 - torch's own
    """Begin torch's process group with the backend of the device; `place` is how to find the others.

    Ranks that meet on this machine talk over its loopback interface, where no other machine can listen or connect.
    """
    if _RENDEZVOUS in os.environ or os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost", "::1"):
        os.environ |= loopback_environment()
    backend = "gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=group_patience(hang_minutes), **place)


def rank_environment(rank: int, world_size: int, folder: str) -> dict[str, str]:
    """The variables of a process that is one of `world_size` on this machine.

    Args:
        rank: which one.
        world_size: processes.
        folder: an empty folder that is this user's alone, for the files through which the processes find each other.
    """
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes, _RENDEZVOUS: folder}


def _meeting_place(ranks: Ranks) -> dict[str, Any]:
    """Where torch finds the other ranks: a file, for those of `run_workers`; else nothing, which is MASTER_ADDR."""
    folder = os.environ.get(_RENDEZVOUS)
    if folder is None:
        return {}
    file = Path(folder, f"group-{next(_group_numbers)}")  # a process's second group must not read the first one's keys
    store = dist.FileStore(str(file), ranks.world_size)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": ranks.rank, "world_size": ranks.world_size}


def loopback_environment() -> dict[str, str]:
    """The variables by which gloo and NCCL listen on the loopback interface, 127.0.0.1, and no other."""
    addresses = psutil.net_if_addrs()
    name = next(name for name, found in addresses.items() if any(one.address == "127.0.0.1" for one in found))
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def group_patience(hang_minutes: float) -> timedelta:
    """How long a collective waits for the others; `hang_minutes` of 0 is for ever.

    A while longer than the guard that prints stacks (`cxml.training.HangGuard`), so that its print comes first.
    """
    return timedelta(minutes=hang_minutes + 1) if hang_minutes else timedelta(days=365)


def set_patience(hang_minutes: float) -> None:
    """Give all groups of this process `group_patience`: those that DeepSpeed makes have torch's default, minutes."""
    for group in process_groups():
        set_timeout(group, group_patience(hang_minutes))


def ranks_per_machine() -> int:
    """How many ranks each machine has; a collective call.

    Raises:
        LaunchError: not all machines have as many.
    """
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, local_world_size())
    if len(set(counts)) > 1:
        found = " and ".join(map(str, sorted(set(counts))))
        raise LaunchError(
            f"head.group_size = node: machines run {found} processes. Start as many on each, or set head.group_size "
            "to a number or to 0."
        )
    return counts[0]


def local_world_size() -> int:
    """Ranks of this machine, as the launcher says, else all."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _ranks_from_environment() -> Ranks:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        device=device_of(local_rank),
    )
