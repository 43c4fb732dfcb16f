"""Triton kernels that score texts on all rows of a rank.

`all_rows_loss` has the structure of fused attention: a program processes a tile of TEXTS and a share of the rows, and
keeps the gradient of its texts' features on chip, in up to four parts of PART columns, while it iterates over its rows.
The programs of one share run concurrently, so rows are read from memory once. Each writes its own sums, which are added
afterwards in a fixed order.

In `all_rows_squares` and `all_rows_update` a program processes a tile of ROWS and iterates over all texts. The
gradient of a block of columns needs the slopes of all texts, the derivatives of the losses by the logits, so these are
stored in a scratch of [texts, ROWS] float32 per program, which each tile overwrites.

True labels are sorted by row; `bounds` has the index of the first one of each tile of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cxml.optim.triton_rows import (
    bias_update,
    dot,
    gather_block,
    load_block,
    new_weights,
    pending,
    products,
    scale_update,
    slopes_and_losses,
    store_weights,
)  # fmt: skip

_TRUE = tl.constexpr(16)  # true labels read at once
_CHANGING = ["num_texts", "num_rows", "num_leaves", "rows_per_share", "step", "first_row", "width"]


@triton.jit(do_not_specialize=_CHANGING)
def all_rows_loss(
    true_rows, true_texts, bounds, features, weight, bias, last_step, scales, log_decay, sums,
    num_texts, num_rows, rows_per_share, step, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the features and the losses of a share of the rows to `sums`, [shares, B, WIDTH + 1].

    The grid is text tiles x shares x groups of PARTS * PART columns; `rows_per_share` is a multiple of ROWS.
    """
    texts = tl.program_id(0) * TEXTS + tl.arange(0, TEXTS)
    is_text = texts < num_texts
    first_column = tl.program_id(2) * PARTS * PART
    begin_row = tl.program_id(1).to(tl.int64) * rows_per_share
    end_row = tl.minimum(begin_row + rows_per_share, num_rows)
    part0 = tl.zeros([TEXTS, PART], tl.float32)
    part1, part2, part3 = part0, part0, part0
    loss = tl.zeros([TEXTS], tl.float32)
    for first_row in range(begin_row, end_row, ROWS):
        rows = first_row + tl.arange(0, ROWS)
        is_row = rows < num_rows
        row_scale = pending(weight, scales, last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
        slopes, losses = _score_tile(
            first_row, is_row, row_scale, texts, is_text, true_rows, true_texts, bounds, features, weight, bias, shares,
            WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        loss += tl.sum(losses, 1)
        slopes *= row_scale[None, :]
        row = load_block(weight, first_row, is_row, first_column, WIDTH, PART, ROWS)
        part0 += dot(slopes, row, IS_BF16)
        if PARTS > 1:
            row = load_block(weight, first_row, is_row, first_column + PART, WIDTH, PART, ROWS)
            part1 += dot(slopes, row, IS_BF16)
        if PARTS > 2:
            row = load_block(weight, first_row, is_row, first_column + 2 * PART, WIDTH, PART, ROWS)
            part2 += dot(slopes, row, IS_BF16)
        if PARTS > 3:
            row = load_block(weight, first_row, is_row, first_column + 3 * PART, WIDTH, PART, ROWS)
            part3 += dot(slopes, row, IS_BF16)
    own = sums + (tl.program_id(1).to(tl.int64) * num_texts + texts) * (WIDTH + 1)
    if tl.program_id(2) == 0:
        tl.store(own + WIDTH, loss, is_text)
    _store_part(own, first_column, part0, is_text, WIDTH, PART)
    if PARTS > 1:
        _store_part(own, first_column + PART, part1, is_text, WIDTH, PART)
    if PARTS > 2:
        _store_part(own, first_column + 2 * PART, part2, is_text, WIDTH, PART)
    if PARTS > 3:
        _store_part(own, first_column + 3 * PART, part3, is_text, WIDTH, PART)


@triton.jit(do_not_specialize=_CHANGING)
def all_rows_squares(
    true_rows, true_texts, bounds, features, weight, bias, last_step, scales, log_decay, slopes, sums,
    num_texts, num_rows, step, shares, scale,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Write each program's sum of the squares of its rows' gradients to `sums`, float64 [programs]."""
    slopes += tl.program_id(0).to(tl.int64) * num_texts * ROWS
    total = tl.zeros([ROWS], tl.float64)
    for first_row in range(tl.program_id(0).to(tl.int64) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        is_row = first_row + tl.arange(0, ROWS) < num_rows
        bias_gradient = scale * _write_slopes(
            first_row, is_row, num_texts, true_rows, true_texts, bounds, features, weight, bias, last_step, scales,
            log_decay, slopes, shares, step, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        squares = bias_gradient * bias_gradient
        for begin in range(0, WIDTH, BLOCK):
            gradient = scale * _gradient(begin, num_texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16)
            squares += tl.sum(gradient * gradient, 1)
        total += squares.to(tl.float64)
        tl.debug_barrier()  # all have read the slopes before the next tile's are written
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=_CHANGING)
def all_rows_update(
    true_rows, true_texts, bounds, starts, positions, features,
    weight, bias, moment, second, bias_moments, last_step, updates, compensation, scales,
    log_decay, slopes, factor, is_finite,
    num_texts, num_rows, num_leaves, step, shares, scale, lr, log_beta1, new1, log_beta2, new2, epsilon, clip,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, SECOND: tl.constexpr,
    IS_BF16: tl.constexpr, IS_KAHAN: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Update all rows with gradients computed in the same pass."""
    if tl.load(is_finite) == 0:
        return
    slopes += tl.program_id(0).to(tl.int64) * num_texts * ROWS
    scale *= tl.load(factor)
    for first_row in range(tl.program_id(0).to(tl.int64) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = first_row + tl.arange(0, ROWS)
        is_row = rows < num_rows
        bias_gradient = scale * _write_slopes(
            first_row, is_row, num_texts, true_rows, true_texts, bounds, features, weight, bias, last_step, scales,
            log_decay, slopes, shares, step, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        squares = tl.zeros([ROWS], tl.float32)
        if CLIPS or SECOND == 1:
            for begin in range(0, WIDTH, BLOCK):
                gradient = scale * _gradient(begin, num_texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16)
                squares += tl.sum(gradient * gradient, 1)
        row_factor, decay, rate, root = bias_update(
            rows, is_row, squares, bias_gradient, weight, bias, second, bias_moments, last_step, updates, scales,
            log_decay, step, lr, log_beta1, new1, log_beta2, new2, epsilon, clip, WIDTH, SECOND, CLIPS,
        )  # fmt: skip
        row_ids = rows
        if IS_BF16 and not IS_KAHAN:  # the noise depends on a row's position
            row_ids = _positions_of(rows, starts, positions, num_leaves)
        inverse = rate
        if weight.dtype.element_ty == tl.uint8:  # scales are known once all of a row is
            largest = tl.zeros([ROWS], tl.float32)
            for begin in range(0, WIDTH, BLOCK):
                gradient = scale * _gradient(begin, num_texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16)
                value = new_weights(
                    first_row, is_row, begin, gradient, row_factor, decay, rate, root,
                    weight, moment, second, compensation, new1, new2, epsilon,
                    WIDTH, BLOCK, ROWS, SECOND, IS_KAHAN, KEEPS=tl.constexpr(False),
                )  # fmt: skip
                largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
            tl.debug_barrier()  # all have read the moments before they advance
            inverse = scale_update(rows, is_row, largest, scales)
        for begin in range(0, WIDTH, BLOCK):
            gradient = scale * _gradient(begin, num_texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16)
            value = new_weights(
                first_row, is_row, begin, gradient, row_factor, decay, rate, root,
                weight, moment, second, compensation, new1, new2, epsilon,
                WIDTH, BLOCK, ROWS, SECOND, IS_KAHAN, KEEPS=tl.constexpr(True),
            )  # fmt: skip
            store_weights(
                first_row, is_row, begin, value, inverse, row_ids, weight, compensation, step,
                WIDTH, BLOCK, ROWS, IS_BF16, IS_KAHAN,
            )  # fmt: skip
        tl.debug_barrier()  # all have read the slopes before the next tile's are written


@triton.jit(do_not_specialize=_CHANGING)
def all_rows_keys(
    starts, positions, features, weight, bias, last_step, scales, log_decay, keys,
    num_texts, num_rows, num_leaves, first_row, width, step,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
):  # fmt: skip
    """Write keys int64 [B, width] of the rows from `first_row` on, distinct within a text.

    The upper 32 bits increase with the logits, the lower ones decrease with the positions.
    """
    columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    texts = tl.program_id(1) * TEXTS + tl.arange(0, TEXTS)
    is_text = texts < num_texts
    begin_row = first_row.to(tl.int64) + tl.program_id(0) * ROWS
    rows = begin_row + tl.arange(0, ROWS)
    is_row = rows < num_rows
    product = products(
        weight, begin_row, is_row, features, texts, is_text, WIDTH, BLOCK, ROWS, TEXTS,
        IS_BF16=tl.constexpr(False), IS_EXACT=tl.constexpr(True),
    )  # fmt: skip
    row_scale = pending(weight, scales, last_step, log_decay, rows, is_row, step)
    logits = product * row_scale[None, :] + tl.load(bias + rows, is_row, other=0)[None, :]
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) << 32
    low = 0xFFFFFFFF - _positions_of(rows, starts, positions, num_leaves)
    cells = texts.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(keys + cells, ordered + low[None, :], is_text[:, None] & (columns < width)[None, :])


@triton.jit
def _positions_of(rows, starts, positions, num_leaves):
    """The position of each row in the whole level, int64, like `LeafRows.row_positions`."""
    low = tl.zeros_like(rows)
    high = low + num_leaves
    left = num_leaves
    while left > 1:  # the leaf of a row is in low .. high, with at most `left` leaves
        middle = (low + high) // 2
        is_after = tl.load(starts + middle) <= rows
        low = tl.where(is_after & (middle > low), middle, low)
        high = tl.where(is_after, high, middle)
        left = (left + 1) // 2
    return tl.load(positions + low) + rows - tl.load(starts + low)


@triton.jit
def _store_part(own, begin, part, is_text, WIDTH: tl.constexpr, PART: tl.constexpr):
    columns = begin + tl.arange(0, PART)
    tl.store(own[:, None] + columns[None, :], part, is_text[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _score_tile(
    first_row, is_row, row_scale, texts, is_text, true_rows, true_texts, bounds, features, weight, bias, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Slopes and losses of a tile of texts and a tile of rows, both float32 [TEXTS, ROWS]."""
    product = products(
        weight, first_row, is_row, features, texts, is_text, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        IS_EXACT=tl.constexpr(False),
    )  # fmt: skip
    rows = first_row + tl.arange(0, ROWS)
    words = tl.zeros([TEXTS], tl.int32)  # bit r is set where row r of the tile is true
    end = tl.load(bounds + first_row // ROWS + 1)
    for begin in range(tl.load(bounds + first_row // ROWS), end, _TRUE):
        places = begin + tl.arange(0, _TRUE)
        own_text = tl.load(true_texts + places, places < end, other=-1)
        bit = (tl.load(true_rows + places, places < end, other=0) - first_row).to(tl.int32) & 31
        marks = tl.where(texts[:, None] == own_text[None, :], (tl.full([_TRUE], 1, tl.int32) << bit)[None, :], 0)
        words = words | tl.reduce(marks, 1, _either)
    truth = ((words[:, None] >> tl.arange(0, ROWS)[None, :]) & 1).to(tl.float32)
    own_bias = tl.load(bias + rows, is_row, other=0)
    share = tl.load(shares + texts, is_text, other=0)[:, None]
    slopes, losses = slopes_and_losses(product * row_scale[None, :] + own_bias[None, :], truth, share)
    inside = is_text[:, None] & is_row[None, :]
    return tl.where(inside, slopes, 0.0), tl.where(inside, losses, 0.0)


@triton.jit
def _write_slopes(
    first_row, is_row, num_texts, true_rows, true_texts, bounds, features, weight, bias, last_step, scales,
    log_decay, slopes,
    shares, step,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Write the slopes of a tile of rows for all texts, [num_texts, ROWS]. Returns their sums by row."""
    rows = first_row + tl.arange(0, ROWS)
    row_scale = pending(weight, scales, last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
    total = tl.zeros([ROWS], tl.float32)
    for begin_text in range(0, num_texts, TEXTS):
        texts = begin_text + tl.arange(0, TEXTS)
        is_text = texts < num_texts
        slope, _ = _score_tile(
            first_row, is_row, row_scale, texts, is_text, true_rows, true_texts, bounds, features, weight, bias, shares,
            WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        total += tl.sum(slope, 0)
        cells = texts[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        tl.store(slopes + cells, slope, tl.broadcast_to(is_text[:, None], [TEXTS, ROWS]))
    tl.debug_barrier()  # other threads read the slopes
    return total


@triton.jit
def _gradient(
    begin, num_texts, features, slopes,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of columns of a tile of rows, float32 [ROWS, BLOCK]."""
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin_text in range(0, num_texts, TEXTS):
        texts = begin_text + tl.arange(0, TEXTS)
        is_text = texts < num_texts
        cells = texts[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        slope = tl.load(slopes + cells, tl.broadcast_to(is_text[:, None], [TEXTS, ROWS]), other=0)
        total += dot(tl.trans(slope), gather_block(features, texts, is_text, begin, WIDTH, BLOCK), IS_BF16)
    return total
