"""Whether the machines of a job have memory for a copy of what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist

from cxml.operating_system import machine_id

_SHARE = (
    0.8  # of free memory that copies may take: files are written through buffers, and batches are prepared meanwhile
)


@dataclass(frozen=True)
class Room:
    """The machine of a job that has the least memory for copies.

    Attributes:
        needed: bytes of the copies of all of its ranks.
        free: bytes that it has free.
    """

    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        """Whether every machine has room for the copies of its ranks."""
        return self.needed <= _SHARE * self.free

    def __str__(self) -> str:
        return f"{self.needed / 2**30:.1f} GiB on a machine with {self.free / 2**30:.1f} GiB free"


def find_room(needed: int, free: int, group: dist.ProcessGroup) -> Room:
    """Find the machine that has the least memory for copies; a collective call, and all ranks get the same answer.

    Args:
        needed: bytes of this rank's copy.
        free: bytes that this rank's machine has free.
        group: of all ranks, on the CPU.
    """
    everyone: list[tuple[str, int, int]] = [("", 0, 0)] * group.size()
    dist.all_gather_object(everyone, (machine_id(), needed, free), group=group)
    return least_room(everyone)


def least_room(ranks: Sequence[tuple[str, int, int]]) -> Room:
    """The machine with the least memory to spare; of each rank its machine, what it needs, and what it sees free."""
    machines = {machine for machine, _, _ in ranks}
    rooms = [
        Room(
            sum(needed for machine, needed, _ in ranks if machine == one),
            min(free for machine, _, free in ranks if machine == one),
        )
        for one in machines
    ]
    return min(rooms, key=lambda room: _SHARE * room.free - room.needed)
