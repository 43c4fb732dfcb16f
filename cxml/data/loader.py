"""Batches for training and evaluation, prepared ahead, the same for any number of processes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import numpy as np

from cxml.data.batch import Batch, collate
from cxml.data.dataset import ShardedDataset
from cxml.data.order import cut, epoch_order
from cxml.data.prefetch import prefetch
from cxml.errors import ConfigError


class TrainLoader:
    """One rank's micro-batches of each optimiser step.

    The epoch's order (a pure function of seed and epoch) is cut into S = ceil(N / batch_size) nearly equal global
    batches, and each of those into world_size x accumulation nearly equal parts; rank r takes the parts
    r x accumulation .. (r + 1) x accumulation. So every text is seen once an epoch, a global batch holds the same texts
    whatever the number of ranks, and (epoch, step) is all the state that resuming needs.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulation: int,
        pad_id: int,
    ) -> None:
        """Plan the steps.

        Raises:
            ConfigError: a global batch would be too small to give every rank a text in every micro-batch.
        """
        self._dataset = dataset
        self._seed = seed
        self._pad_id = pad_id
        self._parts = world_size * accumulation
        self._first_part = rank * accumulation
        self._accumulation = accumulation
        self.steps_per_epoch = math.ceil(len(dataset) / batch_size)
        smallest = len(dataset) // self.steps_per_epoch
        if smallest < self._parts:
            raise ConfigError(
                "train.batch_size", batch_size,
                f"{len(dataset)} texts make batches of {smallest}, too few for {world_size} processes x {accumulation} "
                "micro-batches", f"Lower num_workers or accumulation so that their product is at most {smallest}.",
            )  # fmt: skip

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[list[Batch], None, None]:
        """The micro-batches of each step of `epoch`, from `first_step` on, `accumulation` batches a step.

        Closing or dropping the iterator stops the thread behind it.
        """
        return prefetch(self._steps(epoch, first_step))

    def _steps(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        order = epoch_order(len(self._dataset), self._seed, epoch)
        bounds = cut(len(order), self.steps_per_epoch)
        for step in range(first_step, self.steps_per_epoch):
            global_batch = order[bounds[step] : bounds[step + 1]]
            yield [self._collate(part, len(global_batch)) for part in self._own_parts(global_batch)]

    def _own_parts(self, global_batch: np.ndarray) -> list[np.ndarray]:
        bounds = cut(len(global_batch), self._parts)
        own = range(self._first_part, self._first_part + self._accumulation)
        return [global_batch[bounds[part] : bounds[part + 1]] for part in own]

    def _collate(self, indices: np.ndarray, global_size: int) -> Batch:
        return collate(*self._dataset.gather(indices), pad_id=self._pad_id, global_size=global_size)


class EvalLoader:
    """One rank's share of a split for prediction: every text exactly once over the ranks.

    A rank takes a contiguous share; inside it, texts of similar length share a batch, which saves padding. The longest
    come first, so that running out of memory shows at once.
    """

    def __init__(self, dataset: ShardedDataset, *, batch_size: int, rank: int, world_size: int, pad_id: int) -> None:
        start, stop = cut(len(dataset), world_size)[rank : rank + 2]
        longest_first = np.argsort(-dataset.lengths[start:stop], kind="stable")
        self._indices = start + longest_first
        self._dataset = dataset
        self._batch_size = batch_size
        self._pad_id = pad_id

    def __len__(self) -> int:
        """Batches of this rank."""
        return math.ceil(len(self._indices) / self._batch_size)

    @property
    def num_rows(self) -> int:
        """Texts of this rank."""
        return len(self._indices)

    def __iter__(self) -> Generator[tuple[np.ndarray, Batch], None, None]:
        """Yield (row numbers int64 [B], batch) pairs."""
        return prefetch(self._batches())

    def _batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        for start in range(0, len(self._indices), self._batch_size):
            indices = self._indices[start : start + self._batch_size]
            yield indices, collate(*self._dataset.gather(indices), pad_id=self._pad_id, global_size=len(indices))
