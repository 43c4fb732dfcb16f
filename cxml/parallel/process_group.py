"""The process group of a training or prediction job: ranks, backend and device in one object."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from cxml.accelerators import bound_caches, device_of, use_device
from cxml.errors import LaunchError
from cxml.internals.torch import process_groups, set_timeout
from cxml.operating_system import num_cores
from cxml.parallel.worker import note_failure

_T = TypeVar("_T")

_RENDEZVOUS = "CXML_RENDEZVOUS"  # the folder in which the workers of `run_workers` find each other
_group_numbers = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """The ranks of this process. No other module computes ranks from environment variables.

    Attributes:
        rank: rank of this process, from 0.
        world_size: number of processes.
        local_rank: rank among the processes of its machine.
        device: device of this process.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the first rank, which logs, reports and writes shared files."""
        return self.rank == 0


def value_of_first(value: _T) -> _T:
    """The first rank's value, so that all ranks make the same decision; a collective call."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


@contextmanager
def distributed(threads: int = 0, hang_minutes: float = 0.0) -> Iterator[Ranks]:
    """Join the process group of the environment: that of `run_workers`, or of MASTER_ADDR and MASTER_PORT.

    An existing group (of Ray Train or `launch/train.py`) is used and kept. Otherwise the group ends with the `with`
    block. DeepSpeed keeps the first group of a process, so each process can use only one group with DeepSpeed.

    Args:
        threads: CPU threads of this process; 0 divides the machine's cores evenly among its processes.
        hang_minutes: timeout of collectives; 0 for none.
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
    begin_group(ranks.device, hang_minutes, **_rendezvous_arguments(ranks))
    try:
        yield ranks
    except BaseException as error:
        note_failure(error)  # before the other ranks fail because of this one
        raise
    finally:
        dist.destroy_process_group()


def begin_group(device: torch.device, hang_minutes: float, **place: Any) -> None:  # noqa: ANN401 - torch's own
    """Initialise torch's process group with the backend of the device; `place` is the rendezvous.

    Ranks on the same machine communicate over its loopback interface, which other machines cannot reach.
    """
    if _RENDEZVOUS in os.environ or os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost", "::1"):
        os.environ |= loopback_environment()
    backend = "gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=collective_timeout(hang_minutes), **place)


def rank_environment(rank: int, world_size: int, folder: str) -> dict[str, str]:
    """The variables of a process that is one of `world_size` on this machine.

    Args:
        rank: rank of the process.
        world_size: processes.
        folder: an empty private folder for the rendezvous files.
    """
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes, _RENDEZVOUS: folder}


def _rendezvous_arguments(ranks: Ranks) -> dict[str, Any]:
    """The rendezvous of torch: a file for `run_workers`; else empty, which uses MASTER_ADDR."""
    folder = os.environ.get(_RENDEZVOUS)
    if folder is None:
        return {}
    file = Path(folder, f"group-{next(_group_numbers)}")  # a process's second group must not read the first one's keys
    store = dist.FileStore(str(file), ranks.world_size)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": ranks.rank, "world_size": ranks.world_size}


def loopback_environment() -> dict[str, str]:
    """Environment variables that restrict gloo and NCCL to the loopback interface, 127.0.0.1."""
    addresses = psutil.net_if_addrs()
    name = next(name for name, found in addresses.items() if any(one.address == "127.0.0.1" for one in found))
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def collective_timeout(hang_minutes: float) -> timedelta:
    """Timeout of collectives; none if `hang_minutes` is 0.

    It is longer than that of the guard that prints stacks (`cxml.training.HangGuard`), so that the guard acts first.
    """
    return timedelta(minutes=hang_minutes + 1) if hang_minutes else timedelta(days=365)


def set_collective_timeout(hang_minutes: float) -> None:
    """Set `collective_timeout` for all groups of this process; those of DeepSpeed have torch's default of minutes."""
    for group in process_groups():
        set_timeout(group, collective_timeout(hang_minutes))


def ranks_per_machine() -> int:
    """Number of ranks per machine; a collective call.

    Raises:
        LaunchError: the numbers of the machines differ.
    """
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, local_world_size())
    if len(set(counts)) > 1:
        found = " and ".join(map(str, sorted(set(counts))))
        raise LaunchError(
            f"head.group_size = node: machines run {found} processes. Start equal numbers, or set head.group_size "
            "to a number or to 0."
        )
    return counts[0]


def local_world_size() -> int:
    """Number of ranks on this machine according to the launcher, else all."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _ranks_from_environment() -> Ranks:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        device=device_of(local_rank),
    )
