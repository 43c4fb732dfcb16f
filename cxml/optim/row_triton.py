"""The loops of `row_kernels` as fused Triton kernels, for rows that live on a GPU.

One program has up to sixteen rows of one leaf and all texts that want the leaf. It scores the rows, computes both
gradients and updates the rows in one launch, block of columns by block of columns: `row_triton_kernels` says how, and
how precise the products are. The gradient of the features is summed in memory by atomic additions, so on a GPU its last
bits depend on their order.

Tested against `row_kernels`: on a GPU where there is one, else in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from cxml.model.ranking import NO_KEY, joint_logit, ranking_keys
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors
from cxml.optim.row_triton_kernels import score_pair, train_tile, update_tile
from cxml.optim.triton_cache import use_writable_cache

use_writable_cache()

_ROWS = 16  # of a program: the least that a product of matrices takes
_TEXTS = 16
_COLUMNS = 64  # of a block: wider blocks of AdamW's numbers leave registers for fewer programs at a time
# The most registers of a thread. Without a limit the compiler spills a few bytes to fit one more program on a card.
_TRAINING_REGISTERS = 168
_UPDATE_REGISTERS = 96  # of float32 rows


def train_groups_on_device(
    groups: Sequence[np.ndarray],
    features: Tensor,
    inverse_counts: Tensor,
    is_true: Tensor,
    scale: float,
    mode: int,
    schedule: RowSchedule,
    log_decay: Tensor,
    rows: RowTensors,
) -> tuple[Tensor, Tensor]:
    """Loss and gradients of all pairs, and the update of their rows; see `row_kernels.train_groups`.

    Args:
        groups: `LeafGroups.arrays()`.
        features: float32 [B, D], as all tensors here on the rows' device.
        inverse_counts: float32 [B].
        is_true: uint8 [scores].
        scale: factor of the weights' gradient.
        mode: 0 leaves the rows as they are, 1 updates them, 2 writes their gradients out.
        schedule: the step under way.
        log_decay: `RowSchedule.log_decay` on the device, float64.
        rows: changed in place in mode 1.

    Returns:
        float32 [B, D + 1] as `train_groups` returns it, and float32 [touched rows, D + 1] gradients, in mode 2 only.
    """
    width = features.shape[1]
    sums = features.new_zeros(len(features), width + 1)
    starts, ends, shift, pair_ptr, pair_texts, score_ptr, row_ptr = groups
    kept = features.new_empty(int(row_ptr[-1]) if mode == 2 else 0, width + 1)
    tiles = -(-(ends - starts) // _ROWS)
    tile_group = np.repeat(np.arange(len(starts)), tiles)
    before = np.repeat(np.cumsum(tiles) - tiles, tiles)
    tile_start = starts[tile_group] + (np.arange(len(tile_group)) - before) * _ROWS
    if not len(tile_group):
        return sums, kept
    slopes = features.new_empty(len(is_true))  # what the kernel's passes hand on
    options = _limited_to(_TRAINING_REGISTERS, features.device)
    arrays = (tile_group, tile_start, starts, ends, shift, pair_ptr, pair_texts, score_ptr, row_ptr)
    _launch(train_tile, len(tile_group))(
        *(torch.from_numpy(np.ascontiguousarray(array)).to(features.device) for array in arrays),
        features.contiguous(), inverse_counts, is_true, slopes, sums, kept, *_state(rows),
        _numbers(schedule, features.device), log_decay, scale, MODE=mode, TEXTS=_TEXTS, **_shape(rows, schedule),
        **options,
    )  # fmt: skip
    return sums, kept


def update_rows_on_device(
    rows: RowTensors,
    schedule: RowSchedule,
    log_decay: Tensor,
    *,
    which: Tensor,
    gradients: Tensor,
    row_ids: Tensor,
) -> None:
    """Update distinct rows; see `row_adamw.update_rows`.

    Args:
        rows: changed in place.
        schedule: the step under way.
        log_decay: `RowSchedule.log_decay` on the device, float64.
        which: int64 [n], distinct.
        gradients: float32 [n, D + 1], the bias last.
        row_ids: int64 [n].
    """
    if len(which):
        is_bf16 = rows.weight.dtype == torch.bfloat16
        options = {} if is_bf16 else _limited_to(_UPDATE_REGISTERS, which.device)
        _launch(update_tile, -(-len(which) // _ROWS))(
            which, row_ids, gradients, len(which), *_state(rows), _numbers(schedule, which.device), log_decay,
            **_shape(rows, schedule), **options,
        )  # fmt: skip


def best_rows_on_device(
    features: Tensor, wanted: Sequence[Tensor], k: int, log_decay: Tensor, step: int, rows: RowTensors
) -> tuple[Tensor, Tensor]:
    """The k best rows of each text among the leaves that it wants; see `row_kernels.best_rows`.

    Args:
        features: float32 [B, D].
        wanted: `leaf_ptr`, `first_rows`, `last_rows`, `leaf_logits` and `shift` of `best_rows`, on the device.
        k: rows wanted per text.
        log_decay: `RowSchedule.log_decay` on the device, float64.
        step: the last step taken.
        rows: the rows.

    Returns:
        Keys int64 [B, k], best first (`NO_KEY` where there is none), and label positions int64 [B, k] (-1 likewise).
    """
    leaf_ptr, first_rows, last_rows, leaf_logits, shift = wanted
    num_texts, num_pairs = len(features), len(first_rows)
    score_ptr = torch.cat([first_rows.new_zeros(1), (last_rows - first_rows).cumsum(0)])
    pair_texts = torch.repeat_interleave(torch.arange(num_texts, device=features.device), leaf_ptr.diff())
    flat = features.new_empty(int(score_ptr[-1]))
    if num_pairs:
        _launch(score_pair, num_pairs)(
            pair_texts, first_rows, last_rows, score_ptr, features.contiguous(), flat, rows.weight,
            rows.bias, rows.last_step, log_decay, step, WIDTH=features.shape[1], BLOCK=_block(features.shape[1]),
            ROWS=_ROWS,
        )  # fmt: skip
    text_ptr = score_ptr[leaf_ptr]
    lengths = text_ptr.diff()
    columns = torch.arange(max(int(lengths.max()), k) if num_texts else k, device=features.device)
    padded = torch.full((num_texts, len(columns)), NO_KEY, device=features.device)
    leaf_of_score = torch.repeat_interleave(leaf_logits, last_rows - first_rows)
    padded[columns < lengths[:, None]] = ranking_keys(joint_logit(flat, leaf_of_score), flat)
    best = padded.topk(k, dim=1)
    if not num_pairs:
        return best.values, torch.full_like(best.indices, -1)
    place = (text_ptr[:-1, None] + best.indices).clamp(max=max(len(flat) - 1, 0))
    pair = torch.searchsorted(score_ptr, place, right=True) - 1
    positions = first_rows[pair] + shift[pair] + place - score_ptr[pair]
    return best.values, positions.masked_fill(best.values == NO_KEY, -1)


def _limited_to(registers: int, device: torch.device) -> dict[str, int]:
    """The option of Triton's compiler that limits registers, which only NVIDIA's cards have."""
    is_nvidia = device.type in {"cuda", "cpu"} and not torch.version.hip  # the interpreter, on a CPU, ignores options
    return {"maxnreg": registers} if is_nvidia else {}


def _launch(kernel: Any, programs: int) -> Callable[..., None]:
    return kernel[(programs,)]


def _state(rows: RowTensors) -> tuple[Tensor, ...]:
    return tuple(vars(rows).values())


def _numbers(schedule: RowSchedule, device: torch.device) -> Tensor:
    return torch.from_numpy(schedule.pack()).to(device)


def _shape(rows: RowTensors, schedule: RowSchedule) -> dict[str, int | bool]:
    """What the kernels are compiled for."""
    width = rows.weight.shape[1]
    second = 0 if rows.moment.shape[1] == 0 else 1 if rows.second.shape[1] == 1 else 2
    return {
        "WIDTH": width, "BLOCK": _block(width), "ROWS": _ROWS, "SECOND": second,
        "IS_BF16": rows.weight.dtype == torch.bfloat16, "KEEPS_LOST": rows.compensation.shape[1] > 0,
        "CLIPS": schedule.clip_row_norm > 0,
    }  # fmt: skip


def _block(width: int) -> int:
    return min(_COLUMNS, max(16, triton.next_power_of_2(width)))
