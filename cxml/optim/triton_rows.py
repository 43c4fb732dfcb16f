"""Functions shared by the Triton kernels of a sharded level: products, losses, and the update of a tile of rows.

A row has as many columns as its level's features, which may exceed the registers of a program, so every function here
processes a block of columns. A tile of rows is given by its first row. Its cells are addressed by a scalar of 64 bits
and offsets of 32 bits, which takes fewer registers than 64 bits per cell.

Matrix products run on tensor cores and are summed in float32. Float32 rows are multiplied in tf32, whose mantissa of 10
bits gives a relative error of at most 2^-11 per factor. With bfloat16 rows, features and slopes are also rounded to
bfloat16, with at most 2^-9 per factor. Pending decay and biases are applied in float32. Prediction splits each factor
into two in tf32, which gives the errors of float32.

Rows of e4m3 are read and written with integer operations, which every device supports. Shifted left by 7, their bits
are those of float16 at 2^-8 of their value; `pending` includes the missing factor with the scale of the row.

Several threads of a program may read the same value of a row, so a barrier separates these reads from the write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cxml.optim.row_formats import NEAREST_BF16

_HALF = tl.constexpr(NEAREST_BF16)
# Few AMD devices support tf32.
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
    """A block of columns from `begin` on of rows in any order, [rows, BLOCK]; 0 for missing rows and columns."""
    columns = begin + tl.arange(0, BLOCK)
    cells = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    return tl.load(matrix + cells, is_cell(is_row, columns, WIDTH, BLOCK), other=0)


@triton.jit
def is_cell(is_row, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The mask of the cells of a block that exist."""
    inside = tl.broadcast_to(is_row[:, None], [is_row.shape[0], BLOCK])
    if WIDTH % BLOCK != 0:
        inside = inside & (columns < WIDTH)[None, :]
    return inside


@triton.jit
def dot(a, b, IS_BF16: tl.constexpr):
    """A matrix product on tensor cores, summed in float32."""
    if IS_BF16:
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        if _INTERPRETED:  # the interpreter stores bfloat16 as bits, and would multiply the bits
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
    """Products of texts and rows as stored, float32 [TEXTS, ROWS]; with IS_EXACT accurate to float32."""
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
    """The factors that bring loaded rows up to date with the end of `step`; for e4m3 including their scale."""
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
    """Update the values that a row has one of: bias, its moments, counters, and a second moment per row.

    Args:
        rows: int64 [ROWS].
        is_row: whether each exists.
        squares: sums of the squares of the weights' gradients; needed for CLIPS and for one second moment per row.
        bias_gradient: float32 [ROWS].
        weight: this and the following up to `scales` are arrays of `RowTensors`; weights and scales do not change.
        bias: see `weight`.
        second: see `weight`.
        bias_moments: see `weight`.
        last_step: see `weight`.
        updates: see `weight`.
        scales: see `weight`.
        log_decay: `RowSchedule.log_decay`.
        step: the current step.
        lr: its learning rate.
        log_beta1: logarithm of beta1, so that beta1 ** n is also accurate for large n.
        new1: 1 - beta1.
        log_beta2: logarithm of beta2.
        new2: 1 - beta2.
        epsilon: AdamW's.
        clip: largest norm of a row's gradient.
        WIDTH: D.
        SECOND: 0 for SGD, 1 for one second moment per row, 2 for one per weight.
        CLIPS: whether gradients are clipped to `clip`.

    Returns:
        The inputs of the weights' update, each float32 [ROWS]: the factors of the gradient and of the weights, the
        rate, and the factor of the root of a second moment.
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
    """The updated weights of a block, float32 [ROWS, BLOCK]; see `bias_update`.

    KEEPS: also update the moments in memory.
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
    """Write a block of weights, float32 [ROWS, BLOCK], rounded to the format; `inverse` are the inverse scales."""
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
    """Write the scales of rows with these largest weights, like `row_formats.to_fp8`. Returns their inverses."""
    exponents = tl.maximum((largest.to(tl.int32, bitcast=True) - 1) >> 23, 27) - 7
    tl.store(scales + rows, (exponents << 23).to(tl.float32, bitcast=True), is_row)
    return ((254 - exponents) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _round_fp8(value, noise):
    """Round a scaled float32 to e4m3, with the same steps as `row_formats.to_fp8`."""
    size = tl.abs(value)
    is_small = size < 0.015625
    bits = tl.where(is_small, size + 0.015625, size).to(tl.uint32, bitcast=True) + (noise & 0xFFFFF)
    code = (bits >> 20) - tl.where(is_small, 968, 960).to(tl.uint32)
    return (code | ((value.to(tl.uint32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _round(value, noise):
    """Round a float32 to bfloat16: up if the sum of the lower half and the noise carries, else down."""
    bits = (value.to(tl.uint32, bitcast=True) + noise) >> 16
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _noise(step, row_ids, columns):
    """The 32 random bits of `row_values.noise_of`."""
    mixed = (row_ids.to(tl.uint32) * 2654435761)[:, None] ^ (columns.to(tl.uint32) * 2246822519)[None, :]
    mixed = mixed ^ (step.to(tl.uint32) * 3266489917)
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return mixed ^ (mixed >> 16)


_INTERPRETED = tl.constexpr(not isinstance(products, triton.JITFunction))
