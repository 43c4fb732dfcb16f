"""Functions shared by the Triton kernels of a sharded level: products, losses, and the update of a tile of rows.

A row has as many columns as its level's features, which may be more than the registers of a program hold, so every
function here works on a block of columns. A tile of rows is given by its first row; cells of a tile are addressed by a
scalar of 64 bits and offsets of 32 bits, which takes fewer registers than 64 bits per cell.

Matrix products run on tensor cores and are summed in float32. Float32 rows are multiplied in tf32: its mantissa of 10
bits leaves a relative error of at most 2^-11 per factor. With bfloat16 rows, features and slopes are rounded to
bfloat16 too: at most 2^-9 per factor. Pending decay and biases are applied in float32. Prediction splits each factor
into two of tf32, which leaves errors of float32.

Rows of e4m3 are read and written by integer operations, which every card has. Moved up by 7, their bits are those of
float16 at 2^-8 of their value; the missing factor comes with the scale of the row, by which `pending` multiplies.

Several threads of a program may read the same number of a row, so a barrier separates these reads from the write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cxml.optim.row_formats import NEAREST_BF16

_HALF = tl.constexpr(NEAREST_BF16)
# Few AMD cards have tf32.
_PRECISION = tl.constexpr("ieee" if torch.version.hip else "tf32")
_EXACT = tl.constexpr("ieee" if torch.version.hip else "tf32x3")


@triton.jit
def load_block(
    matrix, first_row, is_row, begin, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Load columns of a tile of rows, from `begin` on, [ROWS, BLOCK]; missing ones are 0, e4m3 becomes float16."""
    lanes, columns = tl.arange(0, ROWS), begin + tl.arange(0, BLOCK)
    cells = lanes[:, None] * WIDTH + columns[None, :]
    stored = tl.load(matrix + first_row * WIDTH + cells, is_cell(is_row, columns, WIDTH, BLOCK), other=0)
    if matrix.dtype.element_ty == tl.uint8:
        bits = stored.to(tl.uint16)
        stored = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
    return stored


@triton.jit
def gather_block(matrix, rows, is_row, begin, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns `begin` .. of some rows, in any order: [rows, BLOCK], 0 where there is no row or column."""
    columns = begin + tl.arange(0, BLOCK)
    cells = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    return tl.load(matrix + cells, is_cell(is_row, columns, WIDTH, BLOCK), other=0)


@triton.jit
def is_cell(is_row, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Which cells of a block exist."""
    inside = tl.broadcast_to(is_row[:, None], [is_row.shape[0], BLOCK])
    if WIDTH % BLOCK != 0:
        inside = inside & (columns < WIDTH)[None, :]
    return inside


@triton.jit
def dot(a, b, IS_BF16: tl.constexpr):
    """A product on tensor cores, added up in float32."""
    if IS_BF16:
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        if _INTERPRETED:  # the interpreter has bfloat16 as bits, and would multiply these
            a, b = a.to(tl.float32), b.to(tl.float32)
    else:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=_PRECISION)


@triton.jit
def products(
    weight, first_row, is_row, features, texts, is_text,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
    IS_EXACT: tl.constexpr,
):  # fmt: skip
    """Products of texts and rows as stored: float32 [TEXTS, ROWS]. IS_EXACT: with errors of float32."""
    total = tl.zeros([TEXTS, ROWS], tl.float32)
    for begin in range(0, WIDTH, BLOCK):
        feature = gather_block(features, texts, is_text, begin, WIDTH, BLOCK)
        row = load_block(weight, first_row, is_row, begin, WIDTH, BLOCK, ROWS)
        if IS_EXACT:
            total += tl.dot(feature.to(tl.float32), tl.trans(row.to(tl.float32)), input_precision=_EXACT)
        else:
            total += dot(feature, tl.trans(row), IS_BF16)
    return total


@triton.jit
def pending(weight, scales, last_step, log_decay, rows, is_row, step):
    """The factors that rows, as loaded, still have to take to be as of the end of `step`; for e4m3 with their scale."""
    taken = tl.load(log_decay + tl.load(last_step + rows, is_row, other=0), is_row, other=0)
    factors = tl.exp(tl.load(log_decay + step) - taken).to(tl.float32)
    if weight.dtype.element_ty == tl.uint8:
        factors *= tl.load(scales + rows, is_row, other=0) * 256
    return factors


@triton.jit
def slopes_and_losses(logits, truth, share):
    """Derivatives of the losses by the logits, and the losses."""
    tail = tl.exp(-tl.abs(logits))
    probability = tl.where(logits >= 0, 1.0, tail) / (1 + tail)
    return (probability - truth) * share, (tl.maximum(logits, 0.0) - logits * truth + tl.log(1 + tail)) * share


@triton.jit
def bias_update(
    rows, is_row, squares, bias_gradient,
    weight, bias, second, bias_moments, last_step, updates, scales, log_decay,
    step, lr, log_beta1, new1, log_beta2, new2, epsilon, clip,
    WIDTH: tl.constexpr, SECOND: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Update what a row has one of.

    Args:
        rows: int64 [ROWS].
        is_row: whether each exists.
        squares: sums of the squares of the weights' gradients; needed for CLIPS and for one second moment a row.
        bias_gradient: float32 [ROWS].
        weight: this and the following up to `scales` are arrays of `RowTensors`; weights and scales do not change.
        bias: see there.
        second: see there.
        bias_moments: see there.
        last_step: see there.
        updates: see there.
        scales: see there.
        log_decay: `RowSchedule.log_decay`.
        step: the step under way.
        lr: its learning rate.
        log_beta1: logarithm of beta1, so that beta1 ** n is exact for large n too.
        new1: 1 - beta1.
        log_beta2: logarithm of beta2.
        new2: 1 - beta2.
        epsilon: AdamW's.
        clip: largest norm of a row's gradient.
        WIDTH: D.
        SECOND: 0 for SGD, 1 for one second moment per row, 2 for one per weight.
        CLIPS: whether there is a largest norm.

    Returns:
        What the weights' update needs, each float32 [ROWS]: factors of the gradient and of the weights, the rate, and
        what the root of a second moment is multiplied by.
    """
    factor = tl.full(squares.shape, 1.0, tl.float32)
    if CLIPS:
        norm = tl.sqrt(squares + bias_gradient * bias_gradient)
        factor = tl.where(norm > clip, clip / tl.maximum(norm, 1e-30), 1.0)
        bias_gradient *= factor
    decay = pending(weight, scales, last_step, log_decay, rows, is_row, step)
    count = tl.load(updates + rows, is_row, other=0) + 1
    new_bias = tl.load(bias + rows, is_row, other=0)
    root = factor
    if SECOND == 0:
        rate = factor * 0 + lr
        new_bias -= lr * bias_gradient
        tl.debug_barrier()
    else:
        taken = count.to(tl.float64)
        rate = (lr / (1 - tl.exp(taken * log_beta1))).to(tl.float32)
        root = (1 / tl.sqrt(1 - tl.exp(taken * log_beta2))).to(tl.float32)
        mean = tl.load(bias_moments + 2 * rows, is_row, other=0)
        square = tl.load(bias_moments + 2 * rows + 1, is_row, other=0)
        mean += new1 * (bias_gradient - mean)
        square += new2 * (bias_gradient * bias_gradient - square)
        new_bias -= rate * mean / (tl.sqrt(square) * root + epsilon)
        if SECOND == 1:
            spread = tl.load(second + rows, is_row, other=0)
            spread += new2 * (squares * factor * factor / WIDTH - spread)
            rate = rate / (tl.sqrt(spread) * root + epsilon)
        tl.debug_barrier()
        tl.store(bias_moments + 2 * rows, mean, is_row)
        tl.store(bias_moments + 2 * rows + 1, square, is_row)
        if SECOND == 1:
            tl.store(second + rows, spread, is_row)
    tl.store(bias + rows, new_bias, is_row)
    tl.store(last_step + rows, tl.zeros_like(count) + step, is_row)
    tl.store(updates + rows, count, is_row)
    return factor, decay, rate, root


@triton.jit
def new_weights(
    first_row, is_row, begin, gradient, factor, decay, rate, root,
    weight, moment, second, compensation, new1, new2, epsilon,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, SECOND: tl.constexpr, IS_KAHAN: tl.constexpr,
    KEEPS: tl.constexpr,
):  # fmt: skip
    """What a block of weights becomes with its gradient, float32 [ROWS, BLOCK]; see `bias_update`.

    KEEPS: the moments advance in memory too.
    """
    columns = begin + tl.arange(0, BLOCK)
    inside = is_cell(is_row, columns, WIDTH, BLOCK)
    cells = tl.arange(0, ROWS)[:, None] * WIDTH + columns[None, :]
    offset = first_row * WIDTH
    gradient *= factor[:, None]
    if SECOND == 0:
        change = rate[:, None] * gradient
    else:
        mean = tl.load(moment + offset + cells, inside, other=0)
        mean += new1 * (gradient - mean)
        if KEEPS:
            tl.store(moment + offset + cells, mean, inside)
        if SECOND == 1:
            change = rate[:, None] * mean
        else:
            square = tl.load(second + offset + cells, inside, other=0)
            square += new2 * (gradient * gradient - square)
            if KEEPS:
                tl.store(second + offset + cells, square, inside)
            change = rate[:, None] * mean / (tl.sqrt(square) * root[:, None] + epsilon)
    value = load_block(weight, first_row, is_row, begin, WIDTH, BLOCK, ROWS).to(tl.float32)
    if IS_KAHAN:
        value += tl.load(compensation + offset + cells, inside, other=0).to(tl.float32)
    return value * decay[:, None] - change


@triton.jit
def store_weights(
    first_row, is_row, begin, value, inverse, row_ids, weight, compensation, step,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, IS_BF16: tl.constexpr, IS_KAHAN: tl.constexpr,
):  # fmt: skip
    """Write a block of weights, float32 [ROWS, BLOCK], rounded as the format says; `inverse` is of the scales."""
    columns = begin + tl.arange(0, BLOCK)
    inside = is_cell(is_row, columns, WIDTH, BLOCK)
    cells = tl.arange(0, ROWS)[:, None] * WIDTH + columns[None, :]
    offset = first_row * WIDTH
    if weight.dtype.element_ty == tl.uint8:
        tl.store(weight + offset + cells, _round_fp8(value * inverse[:, None], _noise(step, row_ids, columns)), inside)
    elif IS_KAHAN:
        rounded = _round(value, _HALF)
        tl.store(compensation + offset + cells, _round(value - rounded.to(tl.float32), _HALF), inside)
        tl.store(weight + offset + cells, rounded, inside)
    elif IS_BF16:
        tl.store(weight + offset + cells, _round(value, _noise(step, row_ids, columns) & 0xFFFF), inside)
    else:
        tl.store(weight + offset + cells, value, inside)


@triton.jit
def scale_update(rows, is_row, largest, scales):
    """Write the scales of rows with these largest weights, as `row_formats.to_fp8` has them; returns their inverses."""
    exponents = tl.maximum((largest.to(tl.int32, bitcast=True) - 1) >> 23, 27) - 7
    tl.store(scales + rows, (exponents << 23).to(tl.float32, bitcast=True), is_row)
    return ((254 - exponents) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _round_fp8(value, noise):
    """A float32 that is scaled as e4m3, in the steps of `row_formats.to_fp8`."""
    size = tl.abs(value)
    is_small = size < 0.015625
    bits = tl.where(is_small, size + 0.015625, size).to(tl.uint32, bitcast=True) + (noise & 0xFFFFF)
    code = (bits >> 20) - tl.where(is_small, 968, 960).to(tl.uint32)
    return (code | ((value.to(tl.uint32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _round(value, noise):
    """A float32 as bfloat16, up or down by whether the lower half and the noise carry over."""
    bits = (value.to(tl.uint32, bitcast=True) + noise) >> 16
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _noise(step, row_ids, columns):
    """The 32 bits of `row_values.noise_of`."""
    mixed = (row_ids.to(tl.uint32) * 2654435761)[:, None] ^ (columns.to(tl.uint32) * 2246822519)[None, :]
    mixed = mixed ^ (step.to(tl.uint32) * 3266489917)
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return mixed ^ (mixed >> 16)


_INTERPRETED = tl.constexpr(not isinstance(products, triton.JITFunction))
