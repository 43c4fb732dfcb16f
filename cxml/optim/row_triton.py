"""The loops of `row_kernels` as fused Triton kernels, for rows that live on a GPU.

One program has up to sixteen rows of one leaf and all texts that want it: the rows are read once, three small products
of matrices give their logits and both gradients, and the rows are updated before they leave the registers. The gradient
of the features is added up in memory by atomic additions, so on a GPU its last bits depend on their order.

Tested against `row_kernels`: on a GPU where there is one, else in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from cxml.model.ranking import NO_KEY, joint_logit, ranking_keys
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors
from cxml.optim.triton_cache import use_writable_cache

use_writable_cache()

_ROWS = 16  # of a program: the least that a product of matrices takes
_TEXTS = 16
_HALF = tl.constexpr(0x8000)  # as noise it makes rounding go to nearest


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
    arrays = (tile_group, tile_start, starts, ends, shift, pair_ptr, pair_texts, score_ptr, row_ptr)
    _launch(_train_tile, len(tile_group))(
        *(torch.from_numpy(np.ascontiguousarray(array)).to(features.device) for array in arrays),
        features.contiguous(), inverse_counts, is_true, sums, kept, *_state(rows), _numbers(schedule, features.device),
        log_decay, scale, MODE=mode, **_shape(rows),
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
        _launch(_update_tile, -(-len(which) // _ROWS))(
            which, row_ids, gradients, len(which), *_state(rows), _numbers(schedule, which.device), log_decay,
            **_shape(rows),
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
        _launch(_score_pair, num_pairs)(
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


def _launch(kernel: Any, programs: int) -> Callable[..., None]:
    return kernel[(programs,)]


def _state(rows: RowTensors) -> tuple[Tensor, ...]:
    return tuple(vars(rows).values())


def _numbers(schedule: RowSchedule, device: torch.device) -> Tensor:
    return torch.from_numpy(schedule.pack()).to(device)


def _shape(rows: RowTensors) -> dict[str, int | bool]:
    """What the kernels are compiled for."""
    width = rows.weight.shape[1]
    second = 0 if rows.moment.shape[1] == 0 else 1 if rows.second.shape[1] == 1 else 2
    return {
        "WIDTH": width, "BLOCK": _block(width), "ROWS": _ROWS, "TEXTS": _TEXTS, "SECOND": second,
        "IS_BF16": rows.weight.dtype == torch.bfloat16, "KEEPS_LOST": rows.compensation.shape[1] > 0,
    }  # fmt: skip


def _block(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


@triton.jit
def _train_tile(
    tile_group, tile_start, starts, ends, shift, pair_ptr, pair_texts, score_ptr, row_ptr,
    features, inverse_counts, is_true, sums, kept,
    weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay, scale,
    MODE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
    SECOND: tl.constexpr, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    group = tl.load(tile_group + tile)
    start = tl.load(starts + group)
    rows = tl.load(tile_start + tile) + tl.arange(0, ROWS)
    is_row = rows < tl.load(ends + group)
    columns = tl.arange(0, BLOCK)
    is_column = columns < WIDTH
    cells = rows[:, None] * WIDTH + columns[None, :]
    is_cell = is_row[:, None] & is_column[None, :]
    step = tl.load(numbers + 5).to(tl.int32)
    # As of the end of the step before: this step's decay comes with its update.
    settled = _pending(last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
    row = tl.load(weight + cells, is_cell, other=0).to(tl.float32) * settled[:, None]
    own_bias = tl.load(bias + rows, is_row, other=0)
    first_pair = tl.load(pair_ptr + group)
    num_texts = tl.load(pair_ptr + group + 1) - first_pair
    first_score = tl.load(score_ptr + group) + (rows - start) * num_texts
    gradient = tl.zeros([ROWS, BLOCK], tl.float32)
    bias_gradient = tl.zeros([ROWS], tl.float32)
    for first in range(0, num_texts, TEXTS):
        pairs = first + tl.arange(0, TEXTS)
        is_text = pairs < num_texts
        texts = tl.load(pair_texts + first_pair + pairs, is_text, other=0)
        is_feature = is_text[:, None] & is_column[None, :]
        feature = tl.load(features + texts[:, None] * WIDTH + columns[None, :], is_feature, other=0)
        logit = tl.dot(feature, tl.trans(row), input_precision="ieee") + own_bias[None, :]
        is_score = is_text[:, None] & is_row[None, :]
        truth = tl.load(is_true + first_score[None, :] + pairs[:, None], is_score, other=0).to(tl.float32)
        share = tl.load(inverse_counts + texts, is_text, other=0)
        tail = tl.exp(-tl.abs(logit))
        probability = tl.where(logit >= 0, 1.0, tail) / (1 + tail)
        loss = (tl.maximum(logit, 0.0) - logit * truth + tl.log(1 + tail)) * share[:, None]
        slope = tl.where(is_score, (probability - truth) * share[:, None], 0.0)
        bias_gradient += tl.sum(slope, 0)
        gradient += tl.dot(tl.trans(slope), feature, input_precision="ieee")
        sum_cells = sums + texts[:, None] * (WIDTH + 1) + columns[None, :]
        tl.atomic_add(sum_cells, tl.dot(slope, row, input_precision="ieee"), is_feature)
        tl.atomic_add(sums + texts * (WIDTH + 1) + WIDTH, tl.sum(tl.where(is_score, loss, 0.0), 1), is_text)
    gradient *= scale
    bias_gradient *= scale
    if MODE == 1:
        _update(
            rows, is_row, columns, is_column, gradient, bias_gradient, rows + tl.load(shift + group),
            weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay,
            WIDTH, SECOND, IS_BF16, KEEPS_LOST,
        )  # fmt: skip
    elif MODE == 2:
        out = (tl.load(row_ptr + group) + rows - start) * (WIDTH + 1)
        tl.store(kept + out[:, None] + columns[None, :], gradient, is_cell)
        tl.store(kept + out + WIDTH, bias_gradient, is_row)


@triton.jit
def _update_tile(
    which, row_ids, gradients, count,
    weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
    SECOND: tl.constexpr, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = places < count
    columns = tl.arange(0, BLOCK)
    is_column = columns < WIDTH
    own = places * (WIDTH + 1)
    gradient = tl.load(gradients + own[:, None] + columns[None, :], is_row[:, None] & is_column[None, :], other=0)
    _update(
        tl.load(which + places, is_row, other=0), is_row, columns, is_column, gradient,
        tl.load(gradients + own + WIDTH, is_row, other=0), tl.load(row_ids + places, is_row, other=0),
        weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay,
        WIDTH, SECOND, IS_BF16, KEEPS_LOST,
    )  # fmt: skip


@triton.jit
def _score_pair(
    pair_texts, first_rows, last_rows, score_ptr, features, logits, weight, bias, last_step, log_decay,
    step, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    first, last = tl.load(first_rows + pair), tl.load(last_rows + pair)
    columns = tl.arange(0, BLOCK)
    is_column = columns < WIDTH
    feature = tl.load(features + tl.load(pair_texts + pair) * WIDTH + columns, is_column, other=0)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        is_row = rows < last
        cells = weight + rows[:, None] * WIDTH + columns[None, :]
        row = tl.load(cells, is_row[:, None] & is_column[None, :], other=0).to(tl.float32)
        settled = _pending(last_step, log_decay, rows, is_row, step)
        logit = tl.sum(row * feature[None, :], 1) * settled + tl.load(bias + rows, is_row, other=0)
        tl.store(logits + tl.load(score_ptr + pair) + rows - first, logit, is_row)


@triton.jit
def _pending(last_step, log_decay, rows, is_row, step):
    """The factors that rows still have to take to be as of the end of `step`."""
    taken = tl.load(log_decay + tl.load(last_step + rows, is_row, other=0), is_row, other=0)
    return tl.exp(tl.load(log_decay + step) - taken).to(tl.float32)


@triton.jit
def _update(
    rows, is_row, columns, is_column, gradient, bias_gradient, row_ids,
    weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay,
    WIDTH: tl.constexpr, SECOND: tl.constexpr, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr,
):  # fmt: skip
    """One update of a tile of rows; see `row_kernels.update_row`."""
    lr, epsilon = tl.load(numbers).to(tl.float32), tl.load(numbers + 3).to(tl.float32)
    clip, step = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.int32)
    square = tl.sum(gradient * gradient, 1) + bias_gradient * bias_gradient
    factor = tl.where(square > clip * clip, clip / tl.sqrt(tl.maximum(square, 1e-30)), 1.0)
    factor = tl.where(clip > 0, factor, 1.0)
    gradient *= factor[:, None]
    bias_gradient *= factor
    cells = rows[:, None] * WIDTH + columns[None, :]
    is_cell = is_row[:, None] & is_column[None, :]
    value = tl.load(weight + cells, is_cell, other=0).to(tl.float32)
    if KEEPS_LOST:
        value += tl.load(lost + cells, is_cell, other=0).to(tl.float32)
    value *= _pending(last_step, log_decay, rows, is_row, step)[:, None]
    count = tl.load(updates + rows, is_row, other=0) + 1
    tl.store(last_step + rows, tl.zeros_like(count) + step, is_row)
    tl.store(updates + rows, count, is_row)
    if SECOND == 0:
        value -= lr * gradient
        bias_change = lr * bias_gradient
    else:
        beta1, beta2 = tl.load(numbers + 1), tl.load(numbers + 2)
        b1, b2 = beta1.to(tl.float32), beta2.to(tl.float32)
        size = (tl.load(numbers) / (1 - tl.exp(count.to(tl.float64) * tl.log(beta1)))).to(tl.float32)
        root = (1 / tl.sqrt(1 - tl.exp(count.to(tl.float64) * tl.log(beta2)))).to(tl.float32)
        first = b1 * tl.load(moment + cells, is_cell, other=0) + (1 - b1) * gradient
        tl.store(moment + cells, first, is_cell)
        if SECOND == 1:
            mean = tl.sum(gradient * gradient, 1) / WIDTH
            spread = b2 * tl.load(second + rows, is_row, other=0) + (1 - b2) * mean
            tl.store(second + rows, spread, is_row)
            value -= (size / (tl.sqrt(spread) * root + epsilon))[:, None] * first
        else:
            spreads = b2 * tl.load(second + cells, is_cell, other=0) + (1 - b2) * gradient * gradient
            tl.store(second + cells, spreads, is_cell)
            value -= size[:, None] * first / (tl.sqrt(spreads) * root[:, None] + epsilon)
        bias_first = b1 * tl.load(bias_moments + 2 * rows, is_row, other=0) + (1 - b1) * bias_gradient
        bias_second = b2 * tl.load(bias_moments + 2 * rows + 1, is_row, other=0)
        bias_second += (1 - b2) * bias_gradient * bias_gradient
        tl.store(bias_moments + 2 * rows, bias_first, is_row)
        tl.store(bias_moments + 2 * rows + 1, bias_second, is_row)
        bias_change = size * bias_first / (tl.sqrt(bias_second) * root + epsilon)
    tl.store(bias + rows, tl.load(bias + rows, is_row, other=0) - bias_change, is_row)
    _store(weight, lost, cells, is_cell, value, _noise(step, row_ids, columns), IS_BF16, KEEPS_LOST)


@triton.jit
def _store(weight, lost, cells, is_cell, value, noise, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr):
    """Write float32 values, rounded as the arrays say."""
    if KEEPS_LOST:
        rounded = _round(value, _HALF)
        tl.store(lost + cells, _round(value - rounded.to(tl.float32), _HALF), is_cell)
        tl.store(weight + cells, rounded, is_cell)
    elif IS_BF16:
        tl.store(weight + cells, _round(value, noise), is_cell)
    else:
        tl.store(weight + cells, value, is_cell)


@triton.jit
def _round(value, noise):
    """A float32 as bfloat16, up or down by whether the lower half and the noise carry over."""
    bits = (value.to(tl.uint32, bitcast=True) + noise) >> 16
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _noise(step, row_ids, columns):
    """The 16 bits of `row_kernels._noise`."""
    mixed = (row_ids.to(tl.uint32) * 2654435761)[:, None] ^ (columns.to(tl.uint32) * 2246822519)[None, :]
    mixed = mixed ^ (step.to(tl.uint32) * 3266489917)
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return (mixed ^ (mixed >> 16)) & 0xFFFF
