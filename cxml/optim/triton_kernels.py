"""The Triton kernels of a sharded level, for rows on an accelerator.

The host never waits for the device: the sizes of grids and buffers depend only on tensor shapes. `triton_shortlist` and
`triton_all_rows` document the kernels, `triton_row_ops` their tiles.

A step reads each touched row's weights once in `loss` and once in `update`, which recomputes the logits and updates the
rows in the same pass. Logits and gradients of rows are not stored in between. An update of fp8 rows computes the new
weights twice, first for the scales of the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cxml.model.ranking import NO_KEY
from cxml.optim import triton_row_ops
from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors
from cxml.optim.row_values import RowArrays
from cxml.optim.torch_kernels import best_of_pairs

_PROGRAMS = 264  # two for each multiprocessor of a large card
_MOST_SLOPES = 2**25  # float32 of scratch: 128 MiB
_KEYS_AT_ONCE = 2**24  # int64: 128 MiB


class TritonShortlistKernels:
    """`RowKernels` of shortlists.

    `squares` and `update` take a scratch of 64 to 256 bytes per pair.

    Args:
        deterministic: whether `loss` returns the same bits in every run. Without it the pairs' gradients are summed by
            atomic additions, in any order. With it each pair has its own sums, which are added afterwards. This takes
            4 (D + 1) bytes of memory per pair, zeroed, added to and read once; six operators (one of them a sort)
            instead of two; and one program instead of up to four for all rows of a leaf. `squares` and `update` always
            have a fixed order.
    """

    fuses_update = False

    def __init__(self, *, deterministic: bool = False) -> None:
        self.deterministic = deterministic

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, *,
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        assert update_scale is None, "these kernels update rows after the loss"
        num_texts, width = candidates.features.shape
        if not _has_work(leaf_rows, candidates):
            return rows.bias.new_zeros(num_texts, width + 1)
        arguments = (*_shortlist(rows, leaf_rows, candidates), schedule.log_decay, schedule.step)
        if not self.deterministic:
            sums = rows.bias.new_zeros(num_texts, width + 1)
            triton_row_ops.launch_shortlist_loss(sums, *arguments, False)
            return sums
        sums, parts = rows.bias.new_empty(num_texts, width + 1), rows.bias.new_zeros(len(candidates.leaves), width + 1)
        triton_row_ops.launch_shortlist_loss(parts, *arguments, True)
        texts, order = candidates.texts.sort(stable=True)
        bounds = torch.searchsorted(texts, torch.arange(num_texts + 1, dtype=texts.dtype, device=texts.device))
        triton_row_ops.launch_segment_sum(sums, parts, order, bounds)
        return sums

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float
    ) -> Tensor:
        """See `RowKernels.squares`."""
        splits, num_pairs = triton_row_ops.leaf_splits(leaf_rows.most_rows), len(candidates.leaves)
        sums = rows.bias.new_zeros(0, dtype=torch.float64)
        if _has_work(leaf_rows, candidates):
            sums = rows.bias.new_empty(splits, num_pairs, dtype=torch.float64)
            triton_row_ops.launch_shortlist_squares(
                sums, _leaf_slopes(rows, leaf_rows, candidates), *_shortlist(rows, leaf_rows, candidates),
                schedule.log_decay, schedule.step, scale,
            )  # fmt: skip
        return sums.sum()

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        if _has_work(leaf_rows, candidates):
            own, *others = _shortlist(rows, leaf_rows, candidates)
            triton_row_ops.launch_shortlist_update(
                own, _leaf_slopes(rows, leaf_rows, candidates), *others, schedule.log_decay, schedule.step, scale,
                _hyperparameters(schedule), factor, is_finite,
            )  # fmt: skip

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        logits, positions = self.scores(rows, leaf_rows, candidates, schedule, schedule.step)
        return best_of_pairs(candidates, logits, positions, k, parent_logits)

    def scores(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, step: int
    ) -> tuple[Tensor, Tensor]:
        """See `ShortlistKernels.scores`."""
        shape = len(candidates.leaves), leaf_rows.most_rows
        if not _has_work(leaf_rows, candidates):
            return rows.bias.new_zeros(shape), leaf_rows.starts.new_full(shape, -1)
        logits, positions = rows.bias.new_empty(shape), leaf_rows.starts.new_empty(shape)
        own, pairs, leaves, _ = _shortlist(rows, leaf_rows, candidates)
        triton_row_ops.launch_shortlist_scores(
            logits, positions, own, pairs, leaves, schedule.log_decay, step
        )  # fmt: skip
        return logits, positions


class TritonAllRowsKernels:
    """`RowKernels` of all rows.

    `loss` takes about 264 x 32 x 4 (D + 1) bytes for partial sums, `squares` and `update` a scratch of 128 bytes per
    text and program, at most 128 MiB, `best` 8 bytes per text and row of a chunk, 128 MiB.

    Args:
        deterministic: has no effect, because every sum has a fixed order.
    """

    fuses_update = False

    def __init__(self, *, deterministic: bool = False) -> None:
        self.deterministic = deterministic

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, *,  # noqa: ARG002
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        assert update_scale is None, "these kernels update rows after the loss"
        (num_texts, width), num_rows = candidates.features.shape, len(rows.bias)
        if not num_texts or not num_rows:
            return rows.bias.new_zeros(num_texts, width + 1)
        tile = triton_row_ops.loss_rows(rows.weight)
        tiles = -(-num_rows // tile)
        shares = min(tiles, max(1, _PROGRAMS // -(-num_texts // triton_row_ops.LEVEL_TEXTS)))
        tiles_per_share = -(-tiles // shares)
        sums = rows.bias.new_empty(-(-tiles // tiles_per_share), num_texts, width + 1)
        triton_row_ops.launch_all_rows_loss(
            sums, _tensors(rows), _texts(candidates), _bounds(candidates, num_rows, tile), schedule.log_decay,
            schedule.step, tiles_per_share * tile,
        )  # fmt: skip
        return sums.sum(0)

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.squares`."""
        sums = rows.bias.new_zeros(0, dtype=torch.float64)
        if len(candidates.features) and len(rows.bias):
            slopes = _level_slopes(rows, candidates)
            sums = rows.bias.new_empty(len(slopes), dtype=torch.float64)
            bounds = _bounds(candidates, len(rows.bias), triton_row_ops.LEVEL_ROWS)
            triton_row_ops.launch_all_rows_squares(
                sums, slopes, _tensors(rows), _texts(candidates), bounds, schedule.log_decay, schedule.step,
                scale,
            )  # fmt: skip
        return sums.sum()

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        if len(rows.bias):
            bounds = _bounds(candidates, len(rows.bias), triton_row_ops.LEVEL_ROWS)
            triton_row_ops.launch_all_rows_update(
                _tensors(rows), _level_slopes(rows, candidates), _texts(candidates), bounds,
                [leaf_rows.starts, leaf_rows.positions], schedule.log_decay, schedule.step, scale,
                _hyperparameters(schedule), factor, is_finite,
            )  # fmt: skip

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        assert parent_logits is None, "no text chooses leaves"
        features, num_rows = candidates.features.contiguous(), len(rows.bias)
        num_texts, tile = len(features), triton_row_ops.LEVEL_ROWS
        chunk = max(1, _KEYS_AT_ONCE // max(1, num_texts) // tile) * tile
        found = [leaf_rows.starts.new_full((num_texts, k), NO_KEY)]
        for first in range(0, num_rows if num_texts else 0, chunk):
            width = min(chunk, num_rows - first)
            keys = leaf_rows.starts.new_empty(num_texts, width)
            triton_row_ops.launch_all_rows_keys(
                keys, _tensors(rows), features, [leaf_rows.starts, leaf_rows.positions], first, schedule.log_decay,
                schedule.step,
            )  # fmt: skip
            found.append(keys.topk(min(k, width), dim=1).values)
        best = torch.cat(found, dim=1).topk(k, dim=1).values
        # As in `all_rows_keys`, the upper bits are the logits' order, the lower ones positions; a ranking key has the
        # logits' order twice.
        is_none, order = best == NO_KEY, best >> 32
        positions = 0xFFFFFFFF - (best & 0xFFFFFFFF)
        keys = (order << 32) + order + 2**31
        return keys.masked_fill(is_none, NO_KEY), positions.masked_fill(is_none, -1)


def _has_work(leaf_rows: LeafRows, candidates: Shortlists) -> bool:
    return min(*candidates.features.shape, len(candidates.leaves), len(leaf_rows.positions), leaf_rows.most_rows) > 0


def _tensors(rows: RowTensors) -> list[Tensor]:
    return [getattr(rows, name) for name in RowArrays._fields]


def _shortlist(
    rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists
) -> tuple[list[Tensor], list[Tensor], list[Tensor], int]:
    """Rows, pairs, the leaves' rows and the rows of the largest leaf, in the form of the operators."""
    own = candidates
    pairs = [own.features, own.leaves, own.texts, own.shares, own.truth]
    return (
        _tensors(rows),
        [tensor.contiguous() for tensor in pairs],
        [leaf_rows.starts, leaf_rows.positions],
        leaf_rows.most_rows,
    )


def _texts(candidates: AllRows) -> list[Tensor]:
    return [candidates.features.contiguous(), candidates.true_rows, candidates.true_texts, candidates.shares]


def _leaf_slopes(rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists) -> Tensor:
    """Scratch of a tile of rows for each pair and split."""
    splits = triton_row_ops.leaf_splits(leaf_rows.most_rows)
    return rows.bias.new_empty(splits, len(candidates.leaves), triton_row_ops.LEAF_ROWS)


def _level_slopes(rows: RowTensors, candidates: AllRows) -> Tensor:
    """Scratch of a tile of rows for each program and text."""
    num_texts = len(candidates.features)
    tiles = -(-len(rows.bias) // triton_row_ops.LEVEL_ROWS)
    programs = max(1, min(tiles, _PROGRAMS, _MOST_SLOPES // triton_row_ops.LEVEL_ROWS // max(1, num_texts)))
    return rows.bias.new_empty(programs, num_texts, triton_row_ops.LEVEL_ROWS)


def _bounds(candidates: AllRows, num_rows: int, tile: int) -> Tensor:
    """The index of the first true label of each tile of rows, int64 [tiles + 1]."""
    begins = torch.arange(0, num_rows + tile, tile, device=candidates.true_rows.device)
    return torch.searchsorted(candidates.true_rows, begins.clamp_(max=num_rows))


def _hyperparameters(schedule: RowSchedule) -> list[float]:
    """The hyperparameters of the current step, in the form of the operators."""
    return [schedule.lr, schedule.beta1, schedule.beta2, schedule.epsilon, schedule.clip_row_norm]
