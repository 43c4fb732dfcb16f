"""The Triton kernels that `row_triton` launches.

A row has as many columns as the encoder has features, more than the registers of a program hold. Each kernel therefore
walks the columns in blocks. `train_tile` processes up to sixteen rows of one leaf and all texts that want the leaf:

1. The first pass sums the logits over the blocks. The logits give the loss and its slopes, the derivatives with respect
   to the logits. The kernel writes the slopes to memory, one per score, and the later passes read them.
2. The second pass sums the squares of the rows' gradients. It runs only where an update needs the norm of the whole
   gradient: when rows are clipped, or when they have one second moment each.
3. The last pass computes both gradients of a block and updates the block of the rows before it reads the next one.

Matrix products run on tensor cores and are summed in float32. Float32 rows are multiplied in tf32: its mantissa of 10
bits leaves a relative error of at most 2^-10 per factor. With bfloat16 rows, features and slopes are rounded to
bfloat16 too: at most 2^-8 per factor. Pending decay and biases are applied in float32.

Several threads of a program may read the same number of a row, so a barrier separates these reads from the write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_HALF = tl.constexpr(0x8000)  # as noise it makes rounding go to nearest
_PRECISION = tl.constexpr("ieee" if torch.version.hip else "tf32")  # few AMD cards have tf32


@triton.jit
def train_tile(
    tile_group, tile_start, starts, ends, shift, pair_ptr, pair_texts, score_ptr, row_ptr,
    features, inverse_counts, is_true, slopes, sums, kept,
    weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay, scale,
    MODE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
    SECOND: tl.constexpr, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Loss, gradients and, by MODE, update of up to ROWS rows of a leaf; see `row_triton.train_groups_on_device`."""
    tile = tl.program_id(0)
    group = tl.load(tile_group + tile)
    start = tl.load(starts + group)
    rows = tl.load(tile_start + tile) + tl.arange(0, ROWS)
    is_row = rows < tl.load(ends + group)
    first_pair = tl.load(pair_ptr + group)
    num_texts = tl.load(pair_ptr + group + 1) - first_pair
    own_texts = pair_texts + first_pair
    scores = tl.load(score_ptr + group) + (rows - start) * num_texts
    # As of the end of the step before: this step's decay comes with its update.
    step = tl.load(numbers + 5).to(tl.int32)
    settled = _pending(last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
    bias_gradient = scale * _score_texts(
        rows, is_row, settled, own_texts, num_texts, scores,
        features, inverse_counts, is_true, slopes, sums, weight, bias, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
    )  # fmt: skip
    tl.debug_barrier()  # the slopes are read by other threads than wrote them
    if MODE == 1:
        squares = tl.zeros([ROWS], tl.float32)
        if CLIPS or SECOND == 1:
            for first in range(0, WIDTH, BLOCK):
                gradient = scale * _gradients(
                    first, rows, is_row, settled, None, own_texts, num_texts, scores, features, slopes, sums,
                    WIDTH, BLOCK, ROWS, TEXTS, IS_BF16, TO_ROWS=tl.constexpr(True), TO_TEXTS=tl.constexpr(False),
                )  # fmt: skip
                squares += tl.sum(gradient * gradient, 1)
        factor, decay, rate, root = _update_biases(
            rows, is_row, squares, bias_gradient, bias, second, bias_moments, last_step, updates, numbers, log_decay,
            WIDTH, SECOND, CLIPS,
        )  # fmt: skip
        row_ids = (rows + tl.load(shift + group)).to(tl.uint32)
    out = (tl.load(row_ptr + group) + rows - start) * (WIDTH + 1)
    for first in range(0, WIDTH, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        cells = rows[:, None] * WIDTH + columns[None, :]
        is_cell = is_row[:, None] & (columns < WIDTH)[None, :]
        row = tl.load(weight + cells, is_cell, other=0)
        gradient = scale * _gradients(
            first, rows, is_row, settled, row, own_texts, num_texts, scores, features, slopes, sums,
            WIDTH, BLOCK, ROWS, TEXTS, IS_BF16, TO_ROWS=MODE != 0, TO_TEXTS=tl.constexpr(True),
        )  # fmt: skip
        if MODE == 1:
            _update_block(
                cells, is_cell, columns, row, gradient, factor, decay, rate, root, row_ids,
                weight, moment, second, lost, numbers, SECOND, IS_BF16, KEEPS_LOST,
            )  # fmt: skip
        elif MODE == 2:
            tl.store(kept + out[:, None] + columns[None, :], gradient, is_cell)
    if MODE == 2:
        tl.store(kept + out + WIDTH, bias_gradient, is_row)


@triton.jit
def update_tile(
    which, row_ids, gradients, count,
    weight, bias, moment, second, bias_moments, last_step, updates, lost, numbers, log_decay,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, SECOND: tl.constexpr, IS_BF16: tl.constexpr,
    KEEPS_LOST: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Update of up to ROWS rows from gradients at hand; see `row_triton.update_rows_on_device`."""
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = places < count
    rows = tl.load(which + places, is_row, other=0)
    ids = tl.load(row_ids + places, is_row, other=0).to(tl.uint32)
    own = places * (WIDTH + 1)
    squares = tl.zeros([ROWS], tl.float32)
    if CLIPS or SECOND == 1:
        for first in range(0, WIDTH, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            is_cell = is_row[:, None] & (columns < WIDTH)[None, :]
            gradient = tl.load(gradients + own[:, None] + columns[None, :], is_cell, other=0)
            squares += tl.sum(gradient * gradient, 1)
    factor, decay, rate, root = _update_biases(
        rows, is_row, squares, tl.load(gradients + own + WIDTH, is_row, other=0),
        bias, second, bias_moments, last_step, updates, numbers, log_decay, WIDTH, SECOND, CLIPS,
    )  # fmt: skip
    for first in range(0, WIDTH, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        cells = rows[:, None] * WIDTH + columns[None, :]
        is_cell = is_row[:, None] & (columns < WIDTH)[None, :]
        _update_block(
            cells, is_cell, columns, tl.load(weight + cells, is_cell, other=0),
            tl.load(gradients + own[:, None] + columns[None, :], is_cell, other=0), factor, decay, rate, root, ids,
            weight, moment, second, lost, numbers, SECOND, IS_BF16, KEEPS_LOST,
        )  # fmt: skip


@triton.jit
def score_pair(
    pair_texts, first_rows, last_rows, score_ptr, features, logits, weight, bias, last_step, log_decay,
    step, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Logits of the rows of one leaf for one text, in full precision."""
    pair = tl.program_id(0)
    first, last = tl.load(first_rows + pair), tl.load(last_rows + pair)
    own_features = features + tl.load(pair_texts + pair) * WIDTH
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        is_row = rows < last
        products = tl.zeros([ROWS, BLOCK], tl.float32)
        for begin in range(0, WIDTH, BLOCK):
            columns = begin + tl.arange(0, BLOCK)
            is_column = columns < WIDTH
            feature = tl.load(own_features + columns, is_column, other=0)
            cells = weight + rows[:, None] * WIDTH + columns[None, :]
            row = tl.load(cells, is_row[:, None] & is_column[None, :], other=0).to(tl.float32)
            products += row * feature[None, :]
        settled = _pending(last_step, log_decay, rows, is_row, step)
        logit = tl.sum(products, 1) * settled + tl.load(bias + rows, is_row, other=0)
        tl.store(logits + tl.load(score_ptr + pair) + rows - first, logit, is_row)


@triton.jit
def _pending(last_step, log_decay, rows, is_row, step):
    """The factors that rows still have to take to be as of the end of `step`."""
    taken = tl.load(log_decay + tl.load(last_step + rows, is_row, other=0), is_row, other=0)
    return tl.exp(tl.load(log_decay + step) - taken).to(tl.float32)


@triton.jit
def _score_texts(
    rows, is_row, settled, own_texts, num_texts, scores,
    features, inverse_counts, is_true, slopes, sums, weight, bias,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Write the slopes of all scores and add up the texts' losses; returns the sums of the slopes of each row."""
    own_bias = tl.load(bias + rows, is_row, other=0)
    total = tl.zeros([ROWS], tl.float32)
    for first_text in range(0, num_texts, TEXTS):
        pairs = first_text + tl.arange(0, TEXTS)
        is_text = pairs < num_texts
        texts = tl.load(own_texts + pairs, is_text, other=0)
        product = tl.zeros([TEXTS, ROWS], tl.float32)
        for first in range(0, WIDTH, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            is_column = columns < WIDTH
            feature = _load_features(features, texts, is_text, columns, is_column, WIDTH)
            cells = weight + rows[:, None] * WIDTH + columns[None, :]
            row = tl.load(cells, is_row[:, None] & is_column[None, :], other=0)
            product += _dot(feature, tl.trans(row), IS_BF16)
        logit = product * settled[None, :] + own_bias[None, :]
        is_score = is_text[:, None] & is_row[None, :]
        cells = scores[None, :] + pairs[:, None]
        truth = tl.load(is_true + cells, is_score, other=0).to(tl.float32)
        share = tl.load(inverse_counts + texts, is_text, other=0)
        tail = tl.exp(-tl.abs(logit))
        probability = tl.where(logit >= 0, 1.0, tail) / (1 + tail)
        loss = (tl.maximum(logit, 0.0) - logit * truth + tl.log(1 + tail)) * share[:, None]
        slope = tl.where(is_score, (probability - truth) * share[:, None], 0.0)
        tl.store(slopes + cells, slope, is_score)
        total += tl.sum(slope, 0)
        tl.atomic_add(sums + texts * (WIDTH + 1) + WIDTH, tl.sum(tl.where(is_score, loss, 0.0), 1), is_text)
    return total


@triton.jit
def _gradients(
    first, rows, is_row, settled, row, own_texts, num_texts, scores, features, slopes, sums,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
    TO_ROWS: tl.constexpr, TO_TEXTS: tl.constexpr,
):  # fmt: skip
    """Gradients of the block of columns that begins at `first`: those of the rows are returned, if TO_ROWS.

    Those of the features are added to `sums`, if TO_TEXTS; these take the block of the rows as stored.
    """
    columns = first + tl.arange(0, BLOCK)
    is_column = columns < WIDTH
    gradient = tl.zeros([ROWS, BLOCK], tl.float32)
    for first_text in range(0, num_texts, TEXTS):
        pairs = first_text + tl.arange(0, TEXTS)
        is_text = pairs < num_texts
        texts = tl.load(own_texts + pairs, is_text, other=0)
        slope = tl.load(slopes + scores[None, :] + pairs[:, None], is_text[:, None] & is_row[None, :], other=0)
        if TO_ROWS:
            feature = _load_features(features, texts, is_text, columns, is_column, WIDTH)
            gradient += _dot(tl.trans(slope), feature, IS_BF16)
        if TO_TEXTS:
            sum_cells = sums + texts[:, None] * (WIDTH + 1) + columns[None, :]
            change = _dot(slope * settled[None, :], row, IS_BF16)
            tl.atomic_add(sum_cells, change, is_text[:, None] & is_column[None, :])
    return gradient


@triton.jit
def _load_features(features, texts, is_text, columns, is_column, WIDTH: tl.constexpr):
    cells = features + texts[:, None] * WIDTH + columns[None, :]
    return tl.load(cells, is_text[:, None] & is_column[None, :], other=0)


@triton.jit
def _dot(a, b, IS_BF16: tl.constexpr):
    """A product on tensor cores, added up in float32."""
    if IS_BF16:
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        if _INTERPRETED:  # the interpreter has bfloat16 as bits, and would multiply these
            a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=_PRECISION)


@triton.jit
def _update_biases(
    rows, is_row, squares, bias_gradient, bias, second, bias_moments, last_step, updates, numbers, log_decay,
    WIDTH: tl.constexpr, SECOND: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Update what a row has one of; see `row_kernels.update_row`.

    Returns:
        What a row's whole update needs: factors of its gradient and of its weights, its rate, and what the root of a
        second moment is multiplied by. `squares` of the gradients are needed for CLIPS and for one second moment a row.
    """
    lr, epsilon = tl.load(numbers).to(tl.float32), tl.load(numbers + 3).to(tl.float32)
    step = tl.load(numbers + 5).to(tl.int32)
    factor = tl.full(squares.shape, 1.0, tl.float32)
    if CLIPS:
        clip = tl.load(numbers + 4).to(tl.float32)
        norm_square = squares + bias_gradient * bias_gradient
        factor = tl.where(norm_square > clip * clip, clip / tl.sqrt(tl.maximum(norm_square, 1e-30)), 1.0)
        bias_gradient *= factor
    decay = _pending(last_step, log_decay, rows, is_row, step)
    count = tl.load(updates + rows, is_row, other=0) + 1
    new_bias = tl.load(bias + rows, is_row, other=0)
    root = factor
    if SECOND == 0:
        rate = factor * 0 + lr
        new_bias -= lr * bias_gradient
        tl.debug_barrier()
    else:
        beta1, beta2 = tl.load(numbers + 1), tl.load(numbers + 2)
        b1, b2 = beta1.to(tl.float32), beta2.to(tl.float32)
        rate = (tl.load(numbers) / (1 - tl.exp(count.to(tl.float64) * tl.log(beta1)))).to(tl.float32)
        root = (1 / tl.sqrt(1 - tl.exp(count.to(tl.float64) * tl.log(beta2)))).to(tl.float32)
        bias_first = b1 * tl.load(bias_moments + 2 * rows, is_row, other=0) + (1 - b1) * bias_gradient
        bias_second = b2 * tl.load(bias_moments + 2 * rows + 1, is_row, other=0)
        bias_second += (1 - b2) * bias_gradient * bias_gradient
        new_bias -= rate * bias_first / (tl.sqrt(bias_second) * root + epsilon)
        if SECOND == 1:
            mean = squares * factor * factor / WIDTH
            spread = b2 * tl.load(second + rows, is_row, other=0) + (1 - b2) * mean
            rate = rate / (tl.sqrt(spread) * root + epsilon)
        tl.debug_barrier()
        tl.store(bias_moments + 2 * rows, bias_first, is_row)
        tl.store(bias_moments + 2 * rows + 1, bias_second, is_row)
        if SECOND == 1:
            tl.store(second + rows, spread, is_row)
    tl.store(bias + rows, new_bias, is_row)
    tl.store(last_step + rows, tl.zeros_like(count) + step, is_row)
    tl.store(updates + rows, count, is_row)
    return factor, decay, rate, root


@triton.jit
def _update_block(
    cells, is_cell, columns, row, gradient, factor, decay, rate, root, row_ids,
    weight, moment, second, lost, numbers,
    SECOND: tl.constexpr, IS_BF16: tl.constexpr, KEEPS_LOST: tl.constexpr,
):  # fmt: skip
    """Update a block of rows, `row` as stored; see `row_kernels.update_row`."""
    gradient *= factor[:, None]
    value = row.to(tl.float32)
    if KEEPS_LOST:
        value += tl.load(lost + cells, is_cell, other=0).to(tl.float32)
    value *= decay[:, None]
    if SECOND == 0:
        value -= rate[:, None] * gradient
    else:
        b1, b2 = tl.load(numbers + 1).to(tl.float32), tl.load(numbers + 2).to(tl.float32)
        first = b1 * tl.load(moment + cells, is_cell, other=0) + (1 - b1) * gradient
        tl.store(moment + cells, first, is_cell)
        if SECOND == 1:
            value -= rate[:, None] * first
        else:
            spreads = b2 * tl.load(second + cells, is_cell, other=0) + (1 - b2) * gradient * gradient
            tl.store(second + cells, spreads, is_cell)
            epsilon = tl.load(numbers + 3).to(tl.float32)
            value -= rate[:, None] * first / (tl.sqrt(spreads) * root[:, None] + epsilon)
    if KEEPS_LOST:
        rounded = _round(value, _HALF)
        tl.store(lost + cells, _round(value - rounded.to(tl.float32), _HALF), is_cell)
        tl.store(weight + cells, rounded, is_cell)
    elif IS_BF16:
        step = tl.load(numbers + 5).to(tl.int32)
        tl.store(weight + cells, _round(value, _noise(step, row_ids, columns)), is_cell)
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
    mixed = (row_ids * 2654435761)[:, None] ^ (columns.to(tl.uint32) * 2246822519)[None, :]
    mixed = mixed ^ (step.to(tl.uint32) * 3266489917)
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return (mixed ^ (mixed >> 16)) & 0xFFFF


_INTERPRETED = tl.constexpr(not isinstance(train_tile, triton.JITFunction))
