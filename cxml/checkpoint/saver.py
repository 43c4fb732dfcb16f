"""Save checkpoints in the background: a thread of each rank writes and commits.

If the machines have enough memory, training waits only for a copy to host memory, and continues while the copy is
written. Otherwise it waits until all tensors are written in place, block by block, without a copy.

Training's threads have priority (benchmarks/checkpoint.py measures the time of steps during a save).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from cxml import storage
from cxml.accelerators import synchronize
from cxml.checkpoint.pieces import SavePlanner
from cxml.checkpoint.retention import new_folder, retain
from cxml.checkpoint.shards import ShardWriter
from cxml.checkpoint.training_state import Snapshot, first_failure
from cxml.config import CheckpointConfig
from cxml.errors import CxmlError
from cxml.operating_system import free_memory, lower_priority, machine_id
from cxml.parallel import Ranks

_log = logging.getLogger(__name__)
# Uploads have no time limit. A dead rank is noticed at once, and a hanging one by the training loop.
_PATIENCE = timedelta(days=1)


class Saver:
    """Writes snapshots under one URL, one at a time. Every rank makes the same calls in the same order."""

    def __init__(
        self, url: str, config: CheckpointConfig, ranks: Ranks, *, free_memory: Callable[[], int] = free_memory
    ) -> None:
        """Create the process group and thread; a collective call.

        Args:
            url: folder of the run's checkpoints.
            config: retention settings.
            ranks: the ranks of this process.
            free_memory: returns the bytes that a process of this machine may still allocate.
        """
        self._url = url
        self._config = config
        self._ranks = ranks
        # The threads use their own process group, separate from the training's messages.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_PATIENCE))
        self._pool = ThreadPoolExecutor(1, "cxml-checkpoint", initializer=lower_priority)
        self._pending: Future[str] | None = None
        self._free_memory = free_memory
        self._told: bool | None = None

    @property
    def is_busy(self) -> bool:
        """Whether this rank's thread is still saving."""
        return self._pending is not None and not self._pending.done()

    def start(self, snapshot: Snapshot) -> None:
        """Save a snapshot, in the background if there is memory for a copy, else blocking.

        A collective call. No rank may be busy.
        """
        self.report()
        folder: list[str | None] = [new_folder(self._url, snapshot.run.step) if self._ranks.is_first else None]
        dist.broadcast_object_list(folder, group=self._group)
        assert folder[0] is not None, "the first rank names it"
        memory = find_copy_memory(snapshot.num_bytes, self._free_memory(), self._group)
        self._log_copy_memory(memory)
        synchronize(self._ranks.device)  # the thread has its own stream
        self._pending = self._pool.submit(self._save, snapshot.on_host() if memory.is_enough else snapshot, folder[0])
        if not memory.is_enough:
            wait([self._pending])

    def report(self) -> None:
        """Log the result of a finished save. A failed save is logged and dropped."""
        if self._pending is None or self.is_busy:
            return
        ended, self._pending = self._pending, None
        error = ended.exception()
        if not self._ranks.is_first:
            return
        if error is None:
            _log.info("Checkpoint saved: %s", ended.result())
        else:
            _log.error("Could not save this checkpoint; training continues: %s", error)

    def wait(self) -> None:
        """Wait for a running save.

        Raises:
            CxmlError: the save failed.
        """
        if self._pending is not None:
            ended, self._pending = self._pending, None
            ended.result()

    def close(self) -> None:
        """Wait for a running save, log its result, and end the thread."""
        if self._pending is not None:
            self._pending.exception()
            self.report()
        self._pool.shutdown()

    def _log_copy_memory(self, memory: CopyMemory) -> None:
        """Log how checkpoints are written, when this changes."""
        if self._ranks.is_first and memory.is_enough != self._told:
            way = "in the background, from a copy" if memory.is_enough else "while training waits, for lack of memory"
            _log.info("Checkpoints are written %s (%s)", way, memory)
        self._told = memory.is_enough

    def _save(self, snapshot: Snapshot, folder: str) -> str:
        writer = ShardWriter(folder, self._ranks.rank, snapshot.run)
        try:
            save(dict(snapshot.pieces), storage_writer=writer, planner=SavePlanner(), process_group=self._group)
        except CheckpointException as error:
            if self._ranks.is_first:
                self._clean_up(folder)
            raise first_failure(error) from None
        if self._ranks.is_first:
            self._retain()
        return folder

    def _clean_up(self, folder: str) -> None:
        try:
            storage.remove(folder)
        except CxmlError as error:
            _log.warning("Could not delete a failed save; the next start deletes it: %s", error)

    def _retain(self) -> None:
        try:
            retain(self._url, self._config)
        except CxmlError as error:
            _log.warning("Could not delete older checkpoints; retrying after the next save: %s", error)


_SHARE = 0.8  # share of free memory for copies; the rest is for write buffers and the preparation of batches


@dataclass(frozen=True)
class CopyMemory:
    """The machine of a job with the least memory for copies.

    Attributes:
        needed: bytes of the copies of all of its ranks.
        free: its free bytes.
    """

    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        """Whether every machine has memory for the copies of its ranks."""
        return self.needed <= _SHARE * self.free

    def __str__(self) -> str:
        return f"copies take {self.needed / 2**30:.1f} GiB on a machine with {self.free / 2**30:.1f} GiB free"


def find_copy_memory(needed: int, free: int, group: dist.ProcessGroup) -> CopyMemory:
    """Find the machine with the least memory for copies; a collective call with the same result on all ranks.

    Args:
        needed: bytes of this rank's copy.
        free: free bytes of this rank's machine.
        group: CPU process group of all ranks.
    """
    everyone: list[tuple[str, int, int]] = [("", 0, 0)] * group.size()
    dist.all_gather_object(everyone, (machine_id(), needed, free), group=group)
    return least_copy_memory(everyone)


def least_copy_memory(ranks: Sequence[tuple[str, int, int]]) -> CopyMemory:
    """The machine with the least spare memory, from each rank's machine, needed bytes and free bytes."""
    machines = {machine for machine, _, _ in ranks}
    machines_memory = [
        CopyMemory(
            sum(needed for machine, needed, _ in ranks if machine == one),
            min(free for machine, _, free in ranks if machine == one),
        )
        for one in machines
    ]
    return min(machines_memory, key=lambda memory: _SHARE * memory.free - memory.needed)
