"""Loaders of batches for training and evaluation. The batches do not depend on the number of processes."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cxml.data.batch import Batch, BatchLimits, collate
from cxml.data.name_texts import TextRows
from cxml.data.order import cut
from cxml.data.prefetch import prefetch, stage
from cxml.data.step_order import StepOrder, StepRule
from cxml.data.windows import WindowRule
from cxml.errors import ConfigError, StaleArtefactError

if TYPE_CHECKING:
    import torch

_SINCE_STATES = {"batch_tokens": 0, "window": 0}  # values of fields that older states do not have
_log = logging.getLogger(__name__)


class TrainLoader:
    """One rank's micro-batches of each optimiser step.

    The epoch's order (a pure function of seed and epoch) is split into S = ceil(N / batch_size) nearly equal global
    batches, and each of them into world_size x accumulation nearly equal parts. Rank r takes the parts r x accumulation
    .. (r + 1) x accumulation. Every text is therefore seen once per epoch, a global batch has the same texts for any
    number of ranks, and (epoch, step) is the whole state for resuming.

    With `bucket_by_length`, global batches contain texts of similar length, with about equal numbers of tokens instead
    of texts (`cxml.data.order`). With `batch_tokens`, a global batch contains as many texts of similar length as fit
    with their padding (`cxml.data.token_steps`). The other properties are the same.
    """

    def __init__(
        self,
        dataset: TextRows,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulation: int,
        pad_id: int,
        bucket_by_length: bool = False,
        batch_tokens: int = 0,
        device: torch.device | None = None,
        pad_to: tuple[int, ...] = (),
        windows: WindowRule | None = None,
    ) -> None:
        """Plan the steps.

        Args:
            dataset: the texts.
            batch_size: texts per global batch.
            seed: seed of the order.
            rank: rank of this process.
            world_size: number of processes.
            accumulation: micro-batches per step and process.
            pad_id: id of the padding token.
            bucket_by_length: see above.
            batch_tokens: most tokens of a global batch, including padding; 0 uses batch_size.
            device: device that batches are copied to ahead of their step; None for the CPU.
            pad_to: see `collate`.
            windows: rule for splitting long texts into windows; None for no windows.

        Raises:
            ConfigError: a global batch has fewer texts than micro-batches over all ranks.
        """
        self._dataset = dataset
        self._label_counts = dataset.label_counts
        self._seed = seed
        self._rule = StepRule(
            batch_size=batch_size, bucket_by_length=bucket_by_length, batch_tokens=batch_tokens, windows=windows
        )  # fmt: skip
        self._order = StepOrder(dataset.lengths, self._rule, seed)
        self._device = device
        self._position = (0, 0)
        self._pad_id, self._pad_to = pad_id, pad_to
        self._parts = world_size * accumulation
        self._first_part = rank * accumulation
        self._accumulation = accumulation
        self.steps_per_epoch = self._order.steps_per_epoch
        _require_parts(self._order, dataset.lengths, self._rule, world_size, accumulation)
        longer = int((self._rule.most_tokens(dataset.lengths) > batch_tokens).sum()) if batch_tokens else 0
        if longer and rank == 0:
            _log.warning(
                "%d texts are longer than train.batch_tokens %d; each takes a separate step", longer, batch_tokens
            )

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[list[Batch], None, None]:
        """The micro-batches of each step of `epoch`, from `first_step` on, `accumulation` batches a step.

        Closing or dropping the iterator stops the thread behind it.
        """
        steps = prefetch(stage(self._steps(epoch, first_step), self._device))
        try:
            for step, staged in enumerate(steps, start=first_step):
                self._position = (epoch, step + 1)
                yield staged.take()
        finally:
            steps.close()

    def state_dict(self) -> dict[str, int | str]:
        """The state of the loader: the epoch, its delivered steps, and the settings that determine the order."""
        epoch, step = self._position
        if step == self.steps_per_epoch:
            epoch, step = epoch + 1, 0
        return {"epoch": epoch, "step": step, **self._order_facts()}

    def load_state_dict(self, state: Mapping[str, int | str]) -> tuple[int, int]:
        """Restore the position of another loader over the same data, with any number of ranks and micro-batches.

        Returns:
            The epoch and the first step that was not delivered: arguments of `epoch`.

        Raises:
            StaleArtefactError: the state belongs to another data set, seed or batch size, which give another order.
        """
        saved = _SINCE_STATES | dict(state)
        for name, value in self._order_facts().items():
            if saved.get(name) != value:
                raise StaleArtefactError(
                    f"the loader's state was saved with {name} = {saved.get(name)!r}, but this run has {value!r}. "
                    "Resume with the same data and settings, or start a new run."
                )
        self._position = int(state["epoch"]), int(state["step"])
        return self._position

    def _order_facts(self) -> dict[str, int | str]:
        return {
            "data": self._dataset.manifest.fingerprint,
            "rows": len(self._dataset),
            "seed": self._seed,
            "batch_size": self._rule.batch_size,
            "bucket_by_length": int(self._rule.bucket_by_length),
            "batch_tokens": self._rule.batch_tokens,
            "window": 0 if self._rule.windows is None else self._rule.windows.size,
        }

    def _steps(self, epoch: int, first_step: int) -> Iterator[list[Batch]]:
        order, bounds = self._order.epoch(epoch)
        for step in range(first_step, self.steps_per_epoch):
            global_batch = order[bounds[step] : bounds[step + 1]]
            cuts = cut(len(global_batch), self._parts)
            most = BatchLimits.of(self._label_counts[global_batch], cuts)
            own = range(self._first_part, self._first_part + self._accumulation)
            yield [self._collate(global_batch[cuts[i] : cuts[i + 1]], len(global_batch), most) for i in own]

    def _collate(self, indices: np.ndarray, global_size: int, limits: BatchLimits) -> Batch:
        rows = self._dataset.gather(indices)
        return collate(
            *rows, pad_id=self._pad_id, global_size=global_size, limits=limits, pad_to=self._pad_to,
            rule=self._rule.windows,
        )  # fmt: skip


class EvalLoader:
    """One rank's share of a split for prediction: every text exactly once over the ranks.

    A rank takes a contiguous share. Within it, texts of similar length share a batch, which reduces padding. The
    longest texts come first, so that out-of-memory errors occur at once. Every rank gets the same number of batches,
    because ranks that share label rows predict in step. A rank without remaining texts gets a dummy batch without row
    numbers.
    """

    def __init__(
        self, dataset: TextRows, *, batch_size: int, rank: int, world_size: int, pad_id: int,
        windows: WindowRule | None = None,
    ) -> None:  # fmt: skip
        start, stop = cut(len(dataset), world_size)[rank : rank + 2]
        longest_first = np.argsort(-dataset.lengths[start:stop], kind="stable")
        self._indices = start + longest_first
        largest_share = math.ceil(len(dataset) / world_size)
        num_batches = math.ceil(largest_share / batch_size)
        self._bounds = cut(len(self._indices), num_batches)
        self._limits = BatchLimits(texts=max(1, math.ceil(largest_share / num_batches)), labels=0, labels_of_a_text=0)
        self._dataset = dataset
        self._pad_id, self._windows = pad_id, windows

    def __len__(self) -> int:
        """Batches of each rank."""
        return len(self._bounds) - 1

    @property
    def num_rows(self) -> int:
        """Texts of this rank."""
        return len(self._indices)

    def __iter__(self) -> Generator[tuple[np.ndarray, Batch], None, None]:
        """Yield (row numbers int64 [B], batch) pairs. Predictions without row numbers are discarded."""
        return prefetch(self._batches())

    def _batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        for start, stop in itertools.pairwise(self._bounds):
            indices = self._indices[start:stop]
            rows = indices if len(indices) else np.zeros(1, np.int64)
            texts = self._dataset.gather(rows)
            yield indices, collate(
                *texts, pad_id=self._pad_id, global_size=len(rows), limits=self._limits, rule=self._windows
            )  # fmt: skip


def require_parts(lengths: np.ndarray, rule: StepRule, *, world_size: int, accumulation: int) -> None:
    """Refuse steps of which some are too small to be shared out.

    Args:
        lengths: tokens of each text, int64 [N].
        rule: how texts make steps.
        world_size: processes.
        accumulation: micro-batches of a step and process.

    Raises:
        ConfigError: a step has fewer texts than there are micro-batches.
    """
    _require_parts(StepOrder(lengths, rule, seed=0), lengths, rule, world_size, accumulation)


def _require_parts(order: StepOrder, lengths: np.ndarray, rule: StepRule, world_size: int, accumulation: int) -> None:
    parts = world_size * accumulation
    if order.smallest >= parts:
        return
    field, value, otherwise = "batch_size", rule.batch_size, ""
    if rule.batch_tokens:
        field, value = "batch_tokens", rule.batch_tokens
        otherwise = f", or set it to {parts * int(rule.most_tokens(lengths).max())} or more"
    elif rule.bucket_by_length:
        otherwise = ", or set train.bucket_by_length to false, or use a larger batch_size"
    raise ConfigError(
        f"train.{field}", value,
        f"{len(lengths)} texts make batches of {order.smallest}, too few for {world_size} processes x {accumulation} "
        "micro-batches", f"Lower num_workers or accumulation so that their product is at most {order.smallest}"
        f"{otherwise}.",
    )  # fmt: skip
