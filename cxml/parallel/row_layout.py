"""Assignment of label rows to ranks: leaf clusters are distributed round-robin.

Neighbouring leaves belong to different ranks, so popular subtrees are spread over all ranks, and the numbers of leaves
per rank differ by at most one. A leaf's rows stay together, in tree order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxml.data import lengths_to_offsets
from cxml.optim import LeafRows

_FLAT_LEAF = 64
"""Rows per leaf for a tree without clusters."""


@dataclass(frozen=True, eq=False)
class RowLayout:
    """The rows of one shard of `num_shards`.

    Attributes:
        leaf_offsets: int64 [num_leaves + 1]: leaf c holds the label positions leaf_offsets[c] .. leaf_offsets[c + 1].
        shard: this shard, from 0.
        num_shards: shards in all.
        local_starts: int64 [own leaves + 1]: own leaf i (leaf i * num_shards + shard) holds the local rows
            local_starts[i] .. local_starts[i + 1].
        most_rows: rows of the largest leaf of all shards.
    """

    leaf_offsets: np.ndarray
    shard: int
    num_shards: int
    local_starts: np.ndarray
    most_rows: int

    @classmethod
    def round_robin(cls, leaf_offsets: np.ndarray, shard: int, num_shards: int) -> RowLayout:
        """Assign the leaves to the shards in turn; a shard may get none."""
        leaf_offsets = np.array(leaf_offsets, np.int64)  # a tree's own may be mapped, and is not to be written to
        sizes = np.diff(leaf_offsets)
        local_starts = lengths_to_offsets(sizes[shard::num_shards])
        return cls(leaf_offsets, shard, num_shards, local_starts, int(sizes.max(initial=0)))

    @property
    def num_rows(self) -> int:
        """Rows of this shard."""
        return int(self.local_starts[-1])

    @property
    def num_labels(self) -> int:
        """Rows of all shards."""
        return int(self.leaf_offsets[-1])

    def positions(self) -> np.ndarray:
        """The label position of each local row, int64 [num_rows]."""
        sizes = np.diff(self.local_starts)
        return np.repeat(self.own_offsets() - self.local_starts[:-1], sizes) + np.arange(self.num_rows)

    def own_offsets(self) -> np.ndarray:
        """The label position at which each own leaf begins, int64 [own leaves]."""
        return self.leaf_offsets[:-1][self.shard :: self.num_shards].copy()

    def local_rows(self, positions: np.ndarray) -> np.ndarray:
        """The local row of each label position, int64; -1 for those of other shards."""
        leaves = np.searchsorted(self.leaf_offsets, positions, side="right") - 1
        local_leaves = np.where(self.owns(leaves), leaves // self.num_shards, 0)
        starts = self.local_starts[:-1][local_leaves] if len(self.local_starts) > 1 else np.zeros_like(leaves)
        rows = starts + positions - self.leaf_offsets[leaves]
        return np.where(self.owns(leaves), rows, -1)

    def owns(self, leaves: np.ndarray) -> np.ndarray:
        """Whether this shard has each leaf, bool."""
        return leaves % self.num_shards == self.shard


def leaf_offsets_of(tree_offsets: tuple[np.ndarray, ...], num_labels: int) -> np.ndarray:
    """Label positions at which the leaves of a tree begin and end; leaves of a fixed size where it has no clusters."""
    if tree_offsets:
        return np.asarray(tree_offsets[-1], np.int64)
    return np.append(np.arange(0, num_labels, _FLAT_LEAF), num_labels).astype(np.int64)


@dataclass(frozen=True)
class Shard:
    """A `RowLayout` on the device where its rows are.

    Attributes:
        leaf_offsets: int64 [leaves of all ranks + 1]; leaf c has the positions leaf_offsets[c] .. leaf_offsets[c + 1].
        leaf_rows: this rank's leaves.
        number: this rank's place among the ranks that share the rows.
        num_shards: ranks that share the rows.
        num_rows: of this rank.
        num_positions: rows of all ranks.
    """

    leaf_offsets: Tensor
    leaf_rows: LeafRows
    number: int
    num_shards: int
    num_rows: int
    num_positions: int

    @classmethod
    def of(cls, layout: RowLayout, device: torch.device) -> Shard:
        """Copy a layout to a device."""
        return cls(
            leaf_offsets=torch.from_numpy(layout.leaf_offsets).to(device),
            leaf_rows=LeafRows(
                starts=torch.from_numpy(layout.local_starts).to(device),
                positions=torch.from_numpy(layout.own_offsets()).to(device),
                most_rows=layout.most_rows,
            ),
            number=layout.shard,
            num_shards=layout.num_shards,
            num_rows=layout.num_rows,
            num_positions=layout.num_labels,
        )

    @property
    def most_leaves(self) -> int:
        """Leaves of the rank that has the most."""
        return -(-(len(self.leaf_offsets) - 1) // self.num_shards)

    def find(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The leaf of each position, and its row within the leaf; int64 both."""
        leaves = torch.searchsorted(self.leaf_offsets, positions, right=True) - 1
        return leaves, positions - self.leaf_offsets[leaves]


def own_rows(shard: Shard, positions: Tensor) -> Tensor:
    """This rank's row of each position, int64; the number of its rows for those of other ranks."""
    leaves, rows = shard.find(positions)
    is_own = leaves % shard.num_shards == shard.number
    starts = shard.leaf_rows.starts[torch.where(is_own, leaves // shard.num_shards, 0)]
    return torch.where(is_own, starts + rows, shard.num_rows)
