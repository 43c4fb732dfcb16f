"""Gradients of label rows that wait for the end of a step: few of many rows, added up over micro-batches and copies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from cxml.parallel.exchange import Exchange


@dataclass
class SparseGradients:
    """What a step has left so far: 4 (D + 1) + 8 bytes per row and micro-batch that touched it.

    Attributes:
        width: numbers per row.
        parts: of each micro-batch, distinct rows int64 [n] and their gradients float32 [n, width].
    """

    width: int
    parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, rows: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the gradients of one micro-batch."""
        self.parts.append((rows, gradients))

    def take(self, copies: Exchange) -> tuple[np.ndarray, np.ndarray]:
        """Hand out the sums over all parts and over the copies of these rows on other ranks, and start anew.

        A collective call of the copies, all of which get the same numbers in the same order.

        Returns:
            Distinct rows int64 [n], rising, and float32 [n, width].
        """
        rows, gradients = self._sum(self.parts)
        self.parts.clear()
        if copies.size == 1:
            return rows, gradients
        sizes = copies.gather_sizes(len(rows))[:, 0].tolist()
        every_row = copies.gather_rows(torch.from_numpy(rows), sizes).numpy()
        every_gradient = copies.gather_rows(torch.from_numpy(gradients), sizes).numpy()
        cuts = np.cumsum(sizes)[:-1]
        return self._sum(list(zip(np.split(every_row, cuts), np.split(every_gradient, cuts), strict=True)))

    def _sum(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        touched = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in parts)])
        rows, place = np.unique(touched, return_inverse=True)
        summed = np.zeros((len(rows), self.width), np.float32)
        start = 0
        for part, gradients in parts:
            summed[place[start : start + len(part)]] += gradients  # rows are distinct within a part
            start += len(part)
        return rows, summed


def clip_factor(square: float, limit: float, shards: Exchange) -> float:
    """The factor that brings the norm of all shards' gradients down to `limit`; a collective call of the shards.

    Args:
        square: sum of the squares of this shard's gradients.
        limit: 0 is none.
        shards: the ranks that together hold all rows once.
    """
    if not limit:
        return 1.0
    norm = math.sqrt(shards.sum_alike(torch.tensor(square, dtype=torch.float64)).item())
    return limit / norm if norm > limit else 1.0
