"""The kernels of a sharded level on CPUs: compiled loops over rows, and matrix products over ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cxml.data import lengths_to_offsets
from cxml.model.ranking import NO_KEY, ranking_keys
from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.leaf_groups import LeafGroups
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_kernels import (
    LOSS,
    LOSS_AND_UPDATE,
    SQUARES,
    UPDATE,
    WantedLeaves,
    best_rows,
    score_pairs,
    train_groups,
    update_distinct_rows,
)
from cxml.optim.row_tensors import RowTensors, pending_decay

_CHUNK_ROWS = 512  # a chunk and its update stay in a core's cache
_PREDICTED_AT_ONCE = 2**20  # logits of a chunk
_MOST_PREDICTED_ROWS = 65536


class CpuShortlistKernels:
    """`RowKernels` of shortlists: one pass over each row computes its scores and both gradients, and updates it."""

    fuses_update = True

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, *,
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        mode = LOSS if update_scale is None else LOSS_AND_UPDATE
        return _train(rows, leaf_rows, candidates, schedule, mode, update_scale or 0.0)[0]

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float
    ) -> Tensor:
        """See `RowKernels.squares`."""
        return _train(rows, leaf_rows, candidates, schedule, SQUARES, scale)[1]

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        if is_finite:
            _train(rows, leaf_rows, candidates, schedule, UPDATE, scale * float(factor))

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        wanted = wanted_leaves(leaf_rows, candidates, parent_logits)
        log_decay = schedule.log_decay.numpy()
        features = candidates.features.float().numpy()
        keys, positions = best_rows(features, wanted, k, log_decay, schedule.step, rows.arrays())
        return torch.from_numpy(keys), torch.from_numpy(positions)

    def scores(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, step: int
    ) -> tuple[Tensor, Tensor]:
        """See `ShortlistKernels.scores`."""
        first, last, positions = leaf_rows.of_pairs(candidates.leaves)
        logits = torch.zeros(positions.shape)
        score_pairs(
            candidates.features.float().numpy(), candidates.texts.numpy(), first.numpy(), last.numpy(), logits.numpy(),
            schedule.log_decay.numpy(), step, rows.arrays(),
        )  # fmt: skip
        return logits, positions


def wanted_leaves(leaf_rows: LeafRows, candidates: Shortlists, parent_logits: Tensor | None) -> WantedLeaves:
    """The pairs in the order of their texts, as `best_rows` takes them."""
    starts, positions = leaf_rows.starts.numpy(), leaf_rows.positions.numpy()
    leaves = candidates.leaves.numpy()
    leaves = leaves[: np.searchsorted(leaves, len(positions))]
    texts = candidates.texts.numpy()[: len(leaves)]
    order = np.argsort(texts, kind="stable")
    leaves = leaves[order]
    first = starts[leaves]
    if parent_logits is None:
        logits = np.full(len(leaves), np.inf, np.float32)
    else:
        logits = parent_logits.numpy()[: len(order)][order]
    leaf_ptr = lengths_to_offsets(np.bincount(texts, minlength=len(candidates.features)))
    return WantedLeaves(leaf_ptr, first, starts[leaves + 1], logits, positions[leaves] - first)


def _train(
    rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, mode: int, scale: float
) -> tuple[Tensor, Tensor]:
    """What `train_groups` returns, and the sum of the squares, float64 []."""
    starts, positions = leaf_rows.starts.numpy(), leaf_rows.positions.numpy()
    groups = LeafGroups.of(candidates.leaves.numpy(), starts, positions)
    texts = candidates.texts.numpy()
    partial_sums = groups.partial_sums(texts, len(candidates.features) if mode <= LOSS_AND_UPDATE else 0)
    squares = np.zeros(len(partial_sums.chunks) - 1)
    sums = train_groups(
        groups, partial_sums, candidates.features.float().numpy(), texts, candidates.shares.numpy(),
        candidates.truth.numpy(), np.float32(scale), mode, schedule.hyperparameters, schedule.log_decay.numpy(),
        rows.arrays(), squares,
    )  # fmt: skip
    return torch.from_numpy(sums), torch.tensor(squares.sum())


class CpuAllRowsKernels:
    """`RowKernels` of all rows, in chunks whose logits are not kept, like Renee (Jain et al. 2023) and ELMO."""

    fuses_update = True

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, *,
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        sums = torch.zeros(len(candidates.features), candidates.features.shape[1] + 1)
        row_ids = leaf_rows.row_positions(len(rows.bias)) if update_scale is not None else None
        for chunk in _chunks(rows, candidates, schedule):
            sums[:, :-1] += (chunk.slopes * chunk.row_scale) @ chunk.weight
            sums[:, -1] += chunk.losses
            if row_ids is not None and update_scale is not None:
                chunk.update(rows, schedule, row_ids, update_scale)
        return sums

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.squares`."""
        total = torch.zeros((), dtype=torch.float64)
        for chunk in _chunks(rows, candidates, schedule):
            for gradients in chunk.gradients(scale):
                total += gradients.square().sum(dtype=torch.float64)
        return total

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        if not is_finite:
            return
        row_ids = leaf_rows.row_positions(len(rows.bias))
        for chunk in _chunks(rows, candidates, schedule):
            chunk.update(rows, schedule, row_ids, scale * float(factor))

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        assert parent_logits is None, "no text chooses leaves"
        features = candidates.features.float()
        positions = leaf_rows.row_positions(len(rows.bias))
        best = features.new_full((len(features), k), -torch.inf)
        places = torch.full(best.shape, -1, dtype=torch.int64)
        # Without updates, chunks need not stay in the cache; large chunks are faster for few texts.
        size = min(_MOST_PREDICTED_ROWS, max(_CHUNK_ROWS, _PREDICTED_AT_ONCE // max(1, len(features))))
        for run in _runs(len(rows.bias), size):
            _, _, logits = _score(rows, run, features, schedule, schedule.step)
            here = logits.topk(min(k, logits.shape[1]), dim=1)
            both = torch.cat([best, here.values], dim=1).topk(k, dim=1)
            places = torch.cat([places, positions[run][here.indices]], dim=1).gather(1, both.indices)
            best = both.values
        return ranking_keys(best, best).masked_fill_(places < 0, NO_KEY), places


@dataclass(frozen=True)
class _Chunk:
    """A run of n rows, scored for B texts.

    Attributes:
        run: the rows.
        features: float32 [B, D].
        weight: float32 [n, D].
        row_scale: float32 [n], pending decay of the rows.
        slopes: float32 [B, n], derivatives of the losses by the logits.
        losses: float32 [B].
    """

    run: slice
    features: Tensor
    weight: Tensor
    row_scale: Tensor
    slopes: Tensor
    losses: Tensor

    def gradients(self, scale: float) -> tuple[Tensor, Tensor]:
        """Of the weights [n, D] and of the biases [n]."""
        return (self.slopes.T @ self.features) * scale, self.slopes.sum(0) * scale

    def update(self, rows: RowTensors, schedule: RowSchedule, row_ids: Tensor, scale: float) -> None:
        """Update the rows by the compiled loop, which visits a row once."""
        gradients, bias_gradients = self.gradients(scale)
        update_distinct_rows(
            np.arange(self.run.start, self.run.stop), np.ascontiguousarray(gradients.numpy()),
            np.ascontiguousarray(bias_gradients.numpy()), row_ids[self.run].numpy(), schedule.hyperparameters,
            schedule.log_decay.numpy(), rows.arrays(),
        )  # fmt: skip


def _chunks(rows: RowTensors, candidates: AllRows, schedule: RowSchedule) -> Iterator[_Chunk]:
    """All rows, chunk by chunk."""
    features = candidates.features.float()
    runs = _runs(len(rows.bias), _CHUNK_ROWS)
    cuts = torch.searchsorted(candidates.true_rows, torch.tensor([run.start for run in runs] + [len(rows.bias)]))
    for run, (first, last) in zip(runs, pairwise(cuts.tolist()), strict=True):
        weight, row_scale, logits = _score(rows, run, features, schedule, schedule.scoring_step)
        place = candidates.true_texts[first:last], candidates.true_rows[first:last] - run.start
        losses = F.softplus(logits).sum(1).index_add_(0, place[0], logits[place], alpha=-1) * candidates.shares
        slopes = logits.sigmoid_()
        slopes[place] -= 1
        yield _Chunk(run, features, weight, row_scale, slopes.mul_(candidates.shares[:, None]), losses)


def _score(
    rows: RowTensors, run: slice, features: Tensor, schedule: RowSchedule, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a run of n rows: weights float32 [n, D], the decay that they still take [n], logits float32 [B, n]."""
    weight = rows.floats(run)  # bfloat16 products are slow on many processors
    row_scale = pending_decay(rows, run, schedule, step)
    return weight, row_scale, (features @ weight.T) * row_scale + rows.bias[run]


def _runs(num_rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
