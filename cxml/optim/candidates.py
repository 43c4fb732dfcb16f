"""The inputs of the kernels of a sharded level: texts, and the rows of one rank to score for each text.

Both kinds are tensors of fixed shapes on the device of the rows, so kernels need no sizes from the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

WORD_BITS = 32


@dataclass(frozen=True)
class LeafRows:
    """The rows of this rank's leaves.

    Attributes:
        starts: int64 [n + 1]; leaf c has the rows starts[c] .. starts[c + 1].
        positions: int64 [n], position in the whole level of each leaf's first row.
        most_rows: rows of the largest leaf.
    """

    starts: Tensor
    positions: Tensor
    most_rows: int

    @property
    def num_words(self) -> int:
        """Number of 32-bit words that mark the true rows of a leaf."""
        return -(-self.most_rows // WORD_BITS)

    def of_pairs(self, leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of each pair's leaf; empty for padding pairs.

        Args:
            leaves: integers [P].

        Returns:
            The first row int64 [P], one past the last int64 [P], and the positions int64 [P, rows of the largest leaf],
            -1 for none.
        """
        num_leaves = len(self.positions)
        if not num_leaves:
            nothing = torch.zeros_like(leaves, dtype=torch.int64)
            return nothing, nothing, nothing.new_full((len(leaves), self.most_rows), -1)
        own = leaves.long().clamp(max=num_leaves - 1)
        first = self.starts[own]
        last = torch.where(leaves < num_leaves, self.starts[own + 1], first)
        columns = torch.arange(self.most_rows, device=leaves.device)
        positions = self.positions[own][:, None] + columns
        return first, last, positions.masked_fill(columns >= (last - first)[:, None], -1)

    def row_positions(self, num_rows: int) -> Tensor:
        """The position in the whole level of each of R rows, int64 [R]; only the device knows R, so it is given."""
        leaves = torch.arange(len(self.positions), device=self.starts.device)
        leaves = leaves.repeat_interleave(self.starts.diff(), output_size=num_rows)
        return self.positions[leaves] + torch.arange(num_rows, device=leaves.device) - self.starts[leaves]


@dataclass(frozen=True)
class Shortlists:
    """P pairs (text, leaf): all rows of each of a text's leaves are scored.

    Attributes:
        features: float [S, D].
        leaves: sorted int32 [P]: the leaf of each pair; n, the number of leaves, for padding.
        texts: int32 [P].
        shares: float32 [P], weight of the loss: one over the length of the text's whole shortlist.
        truth: int32 [P, words]: bit r % 32 of word r // 32 is set if row r of the leaf is true for the text.
    """

    features: Tensor
    leaves: Tensor
    texts: Tensor
    shares: Tensor
    truth: Tensor

    @staticmethod
    def join(parts: list[Shortlists]) -> Shortlists:
        """Concatenate the pairs of several batches, and renumber the texts."""
        if len(parts) == 1:
            return parts[0]
        leaves, place = torch.cat([part.leaves for part in parts]).sort(stable=True)
        return Shortlists(
            features=torch.cat([part.features for part in parts]),
            leaves=leaves,
            texts=torch.cat(_renumbered(parts, [part.texts for part in parts]))[place],
            shares=torch.cat([part.shares for part in parts])[place],
            truth=torch.cat([part.truth for part in parts])[place],
        )


@dataclass(frozen=True)
class AllRows:
    """B texts, for which all of this rank's R rows are scored.

    Attributes:
        features: float [B, D].
        true_rows: sorted int64 [T]; R for true labels of other ranks.
        true_texts: int64 [T].
        shares: float32 [B], weight of the loss; 0 for padding.
    """

    features: Tensor
    true_rows: Tensor
    true_texts: Tensor
    shares: Tensor

    @staticmethod
    def join(parts: list[AllRows]) -> AllRows:
        """Concatenate the texts of several batches, and renumber them."""
        if len(parts) == 1:
            return parts[0]
        rows, place = torch.cat([part.true_rows for part in parts]).sort(stable=True)
        return AllRows(
            features=torch.cat([part.features for part in parts]),
            true_rows=rows,
            true_texts=torch.cat(_renumbered(parts, [part.true_texts for part in parts]))[place],
            shares=torch.cat([part.shares for part in parts]),
        )


def _renumbered(parts: list[Shortlists] | list[AllRows], texts: list[Tensor]) -> list[Tensor]:
    """Renumber texts after those of the preceding parts."""
    ends = accumulate(len(part.features) for part in parts)
    return [own + end - len(part.features) for own, end, part in zip(texts, ends, parts, strict=True)]
