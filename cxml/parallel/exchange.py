"""Collectives between texts and label rows: ranks bring different numbers of texts, and every byte is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Exchange:
    """Gathers what each rank of a group has, and gives back sums to each.

    Attributes:
        group: the ranks; None is all of them.
        sent: bytes that this rank put into collectives since the start: what it sends, per other rank of a ring.
    """

    group: dist.ProcessGroup | None = None
    sent: int = field(default=0, init=False)

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return dist.get_world_size(self.group) if dist.is_initialized() else 1

    @property
    def rank(self) -> int:
        """This rank within the group."""
        return dist.get_rank(self.group) if dist.is_initialized() else 0

    def gather_sizes(self, *sizes: int) -> Tensor:
        """Some counts of every rank, int64 [ranks, counts], on the CPU."""
        return torch.stack(self._gather(torch.tensor(sizes, dtype=torch.int64)))

    def gather_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """The rows [n_r, ...] of all ranks end to end; `sizes` are their n_r, known from `gather_sizes`."""
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = self._gather(padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def sum_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Add up the rows [sum of n_r, ...] of all ranks and keep this rank's own part [n_r, ...]."""
        if self.size == 1:
            return rows
        width = max(sizes)
        padded = rows.new_zeros((self.size, width, *rows.shape[1:]))
        for part, piece in zip(padded, rows.split(sizes), strict=True):
            part[: len(piece)] = piece
        self.sent += padded.numel() * padded.element_size() * (self.size - 1) // self.size
        own = torch.empty_like(padded[0])
        dist.reduce_scatter_tensor(own, padded.flatten(0, 1), group=self.group)
        return own[: sizes[self.rank]]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous(), group=self.group)
        self.sent += tensor.numel() * tensor.element_size() * (self.size - 1)
        return parts
