"""Collectives between texts and label rows, for different numbers of texts per rank, with traffic counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from cxml.accelerators import current_device, reduce_scatter
from cxml.errors import ConfigError


@dataclass
class Exchange:
    """Gathers tensors of the ranks of a group, and scatters sums.

    Attributes:
        group: process group; None for all ranks.
        is_alone: whether this rank is the only one, independent of `group`.
        sent: bytes that this rank has sent in collectives so far, per other rank of a ring.
    """

    group: dist.ProcessGroup | None = None
    is_alone: bool = False
    sent: int = field(default=0, init=False)

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return dist.get_world_size(self.group) if dist.is_initialized() and not self.is_alone else 1

    @property
    def rank(self) -> int:
        """This rank within the group."""
        return dist.get_rank(self.group) if dist.is_initialized() and not self.is_alone else 0

    def split(self, group_size: int) -> tuple[Exchange, Exchange]:
        """Divide all ranks into groups of neighbours; a collective call of all ranks.

        Args:
            group_size: ranks per group, a divisor of all; 0 for one group.

        Returns:
            The ranks of this rank's group, and the ranks with the same position in their groups, including itself.

        Raises:
            ConfigError: the group size is not a divisor.
        """
        assert self.group is None, "only all ranks are split"
        size = self.size
        if group_size in (0, size):
            return self, Exchange(is_alone=True)
        require_even_groups(group_size, size)
        near = [list(range(start, start + group_size)) for start in range(0, size, group_size)]
        alike = [list(range(place, size, group_size)) for place in range(group_size)]
        own = [dist.new_subgroups_by_enumeration(ranks)[0] for ranks in (near, alike)]
        shards, replicas = (cast(dist.ProcessGroup, group) for group in own)  # every rank is in one of each kind
        return Exchange(shards), Exchange(replicas)

    def gather_sizes(self, *sizes: int) -> Tensor:
        """Some counts of every rank, int64 [ranks, counts], on the CPU."""
        return torch.stack(self._gather(torch.tensor(sizes, dtype=torch.int64)))

    def gather_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Gather the rows [n_r, ...] of all ranks, concatenated; `sizes` are the n_r from `gather_sizes`."""
        padded = rows
        if len(rows) < max(sizes):
            padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
            padded[: len(rows)] = rows
        gathered = self._gather(padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def sum_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """Sum the rows [sum of n_r, ...] over all ranks and keep this rank's part [n_r, ...]."""
        if self.size == 1:
            return rows
        width = max(sizes)
        if min(sizes) == width:  # as on accelerators, where launches would grow with the ranks
            padded = rows.reshape(self.size, width, *rows.shape[1:])
        else:
            padded = rows.new_zeros((self.size, width, *rows.shape[1:]))
            for part, piece in zip(padded, rows.split(sizes), strict=True):
                part[: len(piece)] = piece
        self.sent += padded.numel() * padded.element_size() * (self.size - 1) // self.size
        padded = padded.to(self._device())
        own = torch.empty_like(padded[0])
        reduce_scatter(own, padded.flatten(0, 1), self.group)
        return own[: sizes[self.rank]].to(rows.device)

    def all_to_all(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send rows [sum of sent, ...] in rank order, and return [sum of received, ...] in rank order."""
        if self.size == 1:
            return rows
        moved = rows.to(self._device()).contiguous()
        parts = moved.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(parts, moved, received, sent, group=self.group)
        self.sent += (len(rows) - sent[self.rank]) * rows[:1].numel() * rows.element_size()
        return parts.to(rows.device)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of the same shape over all ranks, in place."""
        if self.size > 1:
            self.sent += tensor.numel() * tensor.element_size() * 2 * (self.size - 1) // self.size
            moved = tensor.to(self._device())
            dist.all_reduce(moved, group=self.group)
            if moved is not tensor:
                tensor.copy_(moved)
        return tensor

    def all_reduce_max(self, *numbers: float) -> list[float]:
        """The largest of each number, none of them NaN, over all ranks."""
        if self.size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64, device=self._device())
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        self.sent += found.numel() * found.element_size() * 2 * (self.size - 1) // self.size
        return found.tolist()

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        if self.size == 1:
            return [tensor]
        moved = tensor.to(self._device()).contiguous()
        parts = [torch.empty_like(moved) for _ in range(self.size)]
        dist.all_gather(parts, moved, group=self.group)
        self.sent += tensor.numel() * tensor.element_size() * (self.size - 1)
        return [part.to(tensor.device) for part in parts]

    def _device(self) -> torch.device:
        """The device that the backend sends from: the host for gloo, the accelerator for NCCL and similar backends."""
        return torch.device("cpu") if dist.get_backend(self.group) == "gloo" else current_device()


def require_even_groups(group_size: int, num_ranks: int) -> None:
    """Raise `ConfigError` if `head.group_size` does not divide the number of ranks; 0 is one group of all ranks."""
    if group_size and num_ranks % group_size:
        raise ConfigError(
            "head.group_size", group_size, f"does not divide the {num_ranks} processes", "Set it to a divisor, or to 0."
        )
