"""Global tensors distributed over ranks in pieces, and the planners of torch.distributed.checkpoint for them.

A global tensor is flat; a piece is a range of its elements. Ranks may hold other pieces in the loading job than in the
saving job: the planners find the overlaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from cxml.accelerators import host_memory
from cxml.errors import DataError

PIECE_BYTES = 32 << 20
"""Largest piece that is written. Larger ones are split."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """This rank's pieces of a global tensor.

    Attributes:
        numel: elements of the global tensor.
        parts: this rank's pieces by their start, each a 1-D tensor of at least one element.
    """

    numel: int
    parts: Mapping[int, Tensor]

    @classmethod
    def cut(cls, numel: int, start: int, values: Tensor) -> Pieces:
        """Split a range of values (1-D) that starts at `start` into pieces."""
        step = PIECE_BYTES // values.element_size()
        return cls(numel, {start + i: values[i : i + step] for i in range(0, len(values), step)})

    @classmethod
    def whole(cls, values: Tensor) -> Pieces:
        """A whole tensor, which must be contiguous."""
        return cls.cut(values.numel(), 0, values.view(-1))

    def on_host(self) -> Pieces:
        """A copy in host memory, independent of later steps. It is not pinned, because pinned memory is scarce."""
        return Pieces(self.numel, {start: _copy_of(part.detach()) for start, part in self.parts.items()})

    @property
    def num_bytes(self) -> int:
        """Bytes of this rank's pieces."""
        return sum(part.nbytes for part in self.parts.values())

    def chunks(self) -> list[ChunkStorageMetadata]:
        """The metadata of the parts for the planners."""
        return [ChunkStorageMetadata(torch.Size([start]), part.shape) for start, part in self.parts.items()]


class SavePlanner(DefaultSavePlanner):
    """Plans a save of `Pieces` by name. No two ranks may hold the same piece."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """One item per piece."""
        items = [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk, TensorProperties(dtype=pieces.parts[chunk.offsets[0]].dtype), torch.Size([pieces.numel])
                ),
            )
            for name, pieces in self.state_dict.items()
            for chunk in pieces.chunks()
        ]
        self.plan = SavePlan(items)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The piece of an item."""
        return _part(self.state_dict[index.fqn], index)


class LoadPlanner(DefaultLoadPlanner):
    """Plans the reads that fill `Pieces` in place, for any pieces of the saving job."""

    def __init__(self, url: str) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._url = url

    def set_up_planner(
        self,
        state_dict: dict[str, Pieces],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Store the pieces to fill."""
        assert metadata is not None, "a checkpoint's reader gives it"
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """The overlaps of wanted and saved pieces."""
        items = []
        for name, pieces in self.state_dict.items():
            saved = self.metadata.state_dict_metadata.get(name)
            if not isinstance(saved, TensorStorageMetadata):
                raise DataError(self._url, f"does not contain {name}", "It was saved by a run with another model.")
            if saved.size != torch.Size([pieces.numel]):
                problem = f"contains {name} with {saved.size[0]} elements, expected {pieces.numel}"
                raise DataError(self._url, problem, "It was saved by a run with another model or label set.")
            items += create_read_items_for_chunk_list(name, saved, pieces.chunks())
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The piece to fill."""
        return _part(self.state_dict[index.fqn], index)


def _copy_of(part: Tensor) -> Tensor:
    # NumPy requests huge pages, which halves the time: most of a copy is the wait for new pages.
    memory = torch.from_numpy(np.empty(part.nbytes, np.uint8)).view(part.dtype)
    return memory.copy_(host_memory(part))


def _part(pieces: Pieces, index: MetadataIndex) -> Tensor:
    assert index.offset is not None, "planned so"
    return pieces.parts[index.offset[0]]


def balanced_owners(sizes: Iterable[int], num_ranks: int) -> list[int]:
    """Assign items of these sizes, in order, each to the rank with the least total so far. Returns the ranks."""
    loads = [0] * num_ranks
    owners = []
    for size in sizes:
        owner = loads.index(min(loads))
        loads[owner] += size
        owners.append(owner)
    return owners
