"""Triton kernels for shortlists: pairs of texts and leaves, sorted by leaf.

The grid has SPLITS programs for each pair. The programs of the first pair of a leaf process all pairs of the leaf, the
others return at once, so leaves need not be counted and the grid depends only on shapes. Each of the SPLITS programs
processes every SPLITS-th tile of ROWS of the leaf's rows. A pair of the leaf `num_leaves` is padding.

For each tile of rows, a program iterates over all texts of the leaf in tiles of TEXTS. `shortlist_loss` keeps the
slopes of a tile, the derivatives of the losses by the logits, in registers. In the other kernels the gradient of a
block of columns needs the slopes of all texts, which are stored in a scratch of ROWS float32 per pair and split; each
tile overwrites it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cxml.optim.triton_rows import (
    bias_update,
    dot,
    gather_block,
    is_cell,
    load_block,
    new_weights,
    pending,
    products,
    scale_update,
    slopes_and_losses,
    store_weights,
)  # fmt: skip

_SCAN = tl.constexpr(128)  # pairs read at once to find the end of a leaf
_CHANGING = ["num_pairs", "num_leaves", "num_words", "step", "width"]  # new values must not recompile


@triton.jit(do_not_specialize=_CHANGING)
def shortlist_loss(
    leaves, texts, shares, truth, starts, features, weight, bias, last_step, scales, log_decay, sums,
    num_pairs, num_leaves, num_words, step,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
    BY_PAIR: tl.constexpr,
):  # fmt: skip
    """Add the gradients of the features and the losses to `sums`, [S, WIDTH + 1]; [P, WIDTH + 1] for BY_PAIR.

    With BY_PAIR only one program adds to each number, tile by tile in a fixed order.
    """
    pair = tl.program_id(0)
    leaf, num_texts = _texts_of_leaf(leaves, pair, num_pairs, num_leaves)
    if num_texts == 0:
        return
    start = tl.load(starts + leaf)
    num_rows = (tl.load(starts + leaf + 1) - start).to(tl.int32)
    for first in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        is_row = first + tl.arange(0, ROWS) < num_rows
        rows = start + first + tl.arange(0, ROWS)
        row_scale = pending(weight, scales, last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
        for begin_text in range(0, num_texts, TEXTS):
            pairs = pair + begin_text + tl.arange(0, TEXTS)
            is_text = begin_text + tl.arange(0, TEXTS) < num_texts
            text = tl.load(texts + pairs, is_text, other=0)
            slopes, losses = _score_tile(
                start, first, is_row, row_scale, pairs, text, is_text, shares, truth, features, weight, bias, num_words,
                WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
            )  # fmt: skip
            slopes *= row_scale[None, :]
            target = (pairs if BY_PAIR else text).to(tl.int64) * (WIDTH + 1)
            tl.atomic_add(sums + target + WIDTH, tl.sum(losses, 1), is_text, sem="relaxed")
            for begin in range(0, WIDTH, BLOCK):
                columns = begin + tl.arange(0, BLOCK)
                row = load_block(weight, start + first, is_row, begin, WIDTH, BLOCK, ROWS)
                change = dot(slopes, row, IS_BF16)
                cells = target[:, None] + columns[None, :]
                tl.atomic_add(sums + cells, change, is_cell(is_text, columns, WIDTH, BLOCK), sem="relaxed")
        if BY_PAIR:
            tl.debug_barrier()  # all threads finish this tile's additions before the next tile's


@triton.jit(do_not_specialize=_CHANGING)
def shortlist_squares(
    leaves, texts, shares, truth, starts, features, weight, bias, last_step, scales, log_decay, slopes, sums,
    num_pairs, num_leaves, num_words, step, scale,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Write each program's sum of the squares of its rows' gradients to `sums`, float64 [programs]."""
    pair = tl.program_id(0)
    leaf, num_texts = _texts_of_leaf(leaves, pair, num_pairs, num_leaves)
    sums += tl.program_id(1) * num_pairs + pair
    if num_texts == 0:
        tl.store(sums, 0.0)
        return
    slopes += (tl.program_id(1).to(tl.int64) * num_pairs + pair) * ROWS
    start = tl.load(starts + leaf)
    num_rows = (tl.load(starts + leaf + 1) - start).to(tl.int32)
    total = tl.zeros([ROWS], tl.float64)
    for first in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        is_row = first + tl.arange(0, ROWS) < num_rows
        bias_gradient = scale * _write_slopes(
            start, first, is_row, pair, num_texts, texts, shares, truth, features, weight, bias, last_step, scales,
            log_decay, slopes, num_words, step, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        squares = bias_gradient * bias_gradient
        for begin in range(0, WIDTH, BLOCK):
            gradient = scale * _gradient(
                begin, pair, num_texts, texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16
            )
            squares += tl.sum(gradient * gradient, 1)
        total += squares.to(tl.float64)
        tl.debug_barrier()  # all have read the slopes before the next tile's are written
    tl.store(sums, tl.sum(total, 0))


@triton.jit(do_not_specialize=_CHANGING)
def shortlist_update(
    leaves, texts, shares, truth, starts, positions, features,
    weight, bias, moment, second, bias_moments, last_step, updates, compensation, scales,
    log_decay, slopes, factor, is_finite,
    num_pairs, num_leaves, num_words, step, scale, lr, log_beta1, new1, log_beta2, new2, epsilon, clip,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, SECOND: tl.constexpr,
    IS_BF16: tl.constexpr, IS_KAHAN: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Update the rows of all leaves of the pairs, with gradients computed in the same pass."""
    pair = tl.program_id(0)
    leaf, num_texts = _texts_of_leaf(leaves, pair, num_pairs, num_leaves)
    if (num_texts == 0) | (tl.load(is_finite) == 0):
        return
    slopes += (tl.program_id(1).to(tl.int64) * num_pairs + pair) * ROWS
    start = tl.load(starts + leaf)
    num_rows = (tl.load(starts + leaf + 1) - start).to(tl.int32)
    shift = tl.load(positions + leaf) - start
    scale *= tl.load(factor)
    for first in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        is_row = first + tl.arange(0, ROWS) < num_rows
        rows = start + first + tl.arange(0, ROWS)
        bias_gradient = scale * _write_slopes(
            start, first, is_row, pair, num_texts, texts, shares, truth, features, weight, bias, last_step, scales,
            log_decay, slopes, num_words, step, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        squares = tl.zeros([ROWS], tl.float32)
        if CLIPS or SECOND == 1:
            for begin in range(0, WIDTH, BLOCK):
                gradient = scale * _gradient(
                    begin, pair, num_texts, texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16
                )
                squares += tl.sum(gradient * gradient, 1)
        row_factor, decay, rate, root = bias_update(
            rows, is_row, squares, bias_gradient, weight, bias, second, bias_moments, last_step, updates, scales,
            log_decay, step, lr, log_beta1, new1, log_beta2, new2, epsilon, clip, WIDTH, SECOND, CLIPS,
        )  # fmt: skip
        inverse = rate
        if weight.dtype.element_ty == tl.uint8:  # scales are known once all of a row is
            largest = tl.zeros([ROWS], tl.float32)
            for begin in range(0, WIDTH, BLOCK):
                gradient = scale * _gradient(
                    begin, pair, num_texts, texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16
                )
                value = new_weights(
                    start + first, is_row, begin, gradient, row_factor, decay, rate, root,
                    weight, moment, second, compensation, new1, new2, epsilon,
                    WIDTH, BLOCK, ROWS, SECOND, IS_KAHAN, KEEPS=tl.constexpr(False),
                )  # fmt: skip
                largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
            tl.debug_barrier()  # all have read the moments before they advance
            inverse = scale_update(rows, is_row, largest, scales)
        for begin in range(0, WIDTH, BLOCK):
            gradient = scale * _gradient(
                begin, pair, num_texts, texts, features, slopes, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16
            )
            value = new_weights(
                start + first, is_row, begin, gradient, row_factor, decay, rate, root,
                weight, moment, second, compensation, new1, new2, epsilon,
                WIDTH, BLOCK, ROWS, SECOND, IS_KAHAN, KEEPS=tl.constexpr(True),
            )  # fmt: skip
            store_weights(
                start + first, is_row, begin, value, inverse, rows + shift, weight, compensation, step,
                WIDTH, BLOCK, ROWS, IS_BF16, IS_KAHAN,
            )  # fmt: skip
        tl.debug_barrier()  # all have read the slopes before the next tile's are written


@triton.jit(do_not_specialize=_CHANGING)
def shortlist_scores(
    leaves, texts, starts, positions, features, weight, bias, last_step, scales, log_decay, logits, found,
    num_pairs, num_leaves, step, width,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr,
):  # fmt: skip
    """Write logits, float32 [P, width], and positions, int64 [P, width]; 0 and -1 beyond the rows of a leaf."""
    pair = tl.program_id(0)
    leaf, num_texts = _texts_of_leaf(leaves, pair, num_pairs, num_leaves)
    own = tl.load(leaves + pair)
    is_padding = own >= num_leaves
    if (num_texts == 0) & (own < num_leaves):
        return
    num_texts = tl.where(is_padding, 1, num_texts)  # each padding pair writes its own values
    start = tl.load(starts + leaf)
    num_rows = tl.where(is_padding, 0, tl.load(starts + leaf + 1) - start).to(tl.int32)
    shift = tl.load(positions + leaf)
    for first in range(tl.program_id(1) * ROWS, width, tl.num_programs(1) * ROWS):
        lanes = first + tl.arange(0, ROWS)
        is_row = lanes < num_rows
        row_scale = pending(weight, scales, last_step, log_decay, start + lanes, is_row, step)
        own_bias = tl.load(bias + start + lanes, is_row, other=0)
        for begin_text in range(0, num_texts, TEXTS):
            pairs = pair + begin_text + tl.arange(0, TEXTS)
            is_text = begin_text + tl.arange(0, TEXTS) < num_texts
            text = tl.load(texts + pairs, is_text, other=0)
            product = products(
                weight, start + first, is_row, features, text, is_text, WIDTH, BLOCK, ROWS, TEXTS,
                IS_BF16=tl.constexpr(False), IS_EXACT=tl.constexpr(True),
            )  # fmt: skip
            cells = pairs.to(tl.int64)[:, None] * width + lanes[None, :]
            inside = is_text[:, None] & (lanes < width)[None, :]
            tl.store(logits + cells, product * row_scale[None, :] + own_bias[None, :], inside)
            position = tl.where(is_row, shift + lanes, -1)
            tl.store(found + cells, tl.broadcast_to(position[None, :], [TEXTS, ROWS]), inside)


@triton.jit
def segment_sum(parts, order, bounds, sums, width, BLOCK: tl.constexpr):
    """Sum the rows of `parts` in a fixed order: sums[s] = sum of parts[order[i]] for bounds[s] <= i < bounds[s + 1]."""
    text = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for place in range(tl.load(bounds + text), tl.load(bounds + text + 1)):
        total += tl.load(parts + tl.load(order + place) * width + columns, columns < width, other=0)
    tl.store(sums + text * width + columns, total, columns < width)


@triton.jit
def _texts_of_leaf(leaves, pair, num_pairs, num_leaves):
    """The leaf of a pair, and the number of pairs of the leaf; 0 unless this is its first pair."""
    leaf = tl.load(leaves + pair)
    before = tl.load(leaves + pair - 1, pair > 0, other=-1)
    count = 0
    found = tl.where((leaf < num_leaves) & (before != leaf), _SCAN, 0)
    while found == _SCAN:
        places = pair + count + tl.arange(0, _SCAN)
        found = tl.sum((tl.load(leaves + places, places < num_pairs, other=-1) == leaf).to(tl.int32), 0)
        count += found  # pyright: ignore[reportOperatorIssue]
    return tl.minimum(leaf, num_leaves - 1), count


@triton.jit
def _score_tile(
    start, first, is_row, row_scale, pairs, text, is_text, shares, truth, features, weight, bias, num_words,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Slopes and losses of a tile of texts and a tile of rows, both float32 [TEXTS, ROWS]."""
    product = products(
        weight, start + first, is_row, features, text, is_text, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        IS_EXACT=tl.constexpr(False),
    )  # fmt: skip
    lanes = tl.arange(0, ROWS)
    own_bias = tl.load(bias + start + first + lanes, is_row, other=0)
    # A tile starts at a multiple of ROWS, a divisor of 32, so all its rows are in one word.
    words = tl.load(truth + pairs.to(tl.int64) * num_words + first // 32, is_text, other=0)
    is_true = ((words[:, None] >> (first % 32 + lanes)[None, :]) & 1).to(tl.float32)
    share = tl.load(shares + pairs, is_text, other=0)[:, None]
    slopes, losses = slopes_and_losses(product * row_scale[None, :] + own_bias[None, :], is_true, share)
    inside = is_text[:, None] & is_row[None, :]
    return tl.where(inside, slopes, 0.0), tl.where(inside, losses, 0.0)


@triton.jit
def _write_slopes(
    start, first, is_row, pair, num_texts, texts, shares, truth, features, weight, bias, last_step, scales,
    log_decay, slopes,
    num_words, step,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """Write the slopes of a tile of rows for all texts of a leaf, [num_texts, ROWS]. Returns their sums by row."""
    rows = start + first + tl.arange(0, ROWS)
    row_scale = pending(weight, scales, last_step, log_decay, rows, is_row, tl.maximum(step - 1, 0))
    total = tl.zeros([ROWS], tl.float32)
    for begin_text in range(0, num_texts, TEXTS):
        places = begin_text + tl.arange(0, TEXTS)
        is_text = places < num_texts
        text = tl.load(texts + pair + places, is_text, other=0)
        slope, _ = _score_tile(
            start, first, is_row, row_scale, pair + places, text, is_text, shares, truth, features, weight, bias,
            num_words, WIDTH, BLOCK, ROWS, TEXTS, IS_BF16,
        )  # fmt: skip
        total += tl.sum(slope, 0)
        cells = places[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        tl.store(slopes + cells, slope, tl.broadcast_to(is_text[:, None], [TEXTS, ROWS]))
    tl.debug_barrier()  # other threads read the slopes
    return total


@triton.jit
def _gradient(
    begin, pair, num_texts, texts, features, slopes,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TEXTS: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of columns of a tile of rows, float32 [ROWS, BLOCK]."""
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin_text in range(0, num_texts, TEXTS):
        places = begin_text + tl.arange(0, TEXTS)
        is_text = places < num_texts
        text = tl.load(texts + pair + places, is_text, other=0)
        cells = places[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        slope = tl.load(slopes + cells, tl.broadcast_to(is_text[:, None], [TEXTS, ROWS]), other=0)
        total += dot(tl.trans(slope), gather_block(features, text, is_text, begin, WIDTH, BLOCK), IS_BF16)
    return total
