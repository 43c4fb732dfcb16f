"""Compiled loops over the label rows in a batch's shortlists, on the CPU.

Pairs (text, leaf) are grouped by leaf, so a leaf's rows are read once, sequentially, for all texts. A single pass
scores a row, computes its loss and both gradients, and updates it.

The work is split into a fixed number of chunks with separate sums, which are added in order, so the result does not
depend on the number of threads. Related arrays and numbers are passed as named tuples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from cxml.jit import FAST_MATH, cached_njit
from cxml.model.ranking import NO_KEY
from cxml.optim.row_values import load, scale_of, store, to_float

LOSS, LOSS_AND_UPDATE, UPDATE, SQUARES = range(4)
"""Modes of `train_groups`."""


class Hyperparameters(NamedTuple):
    """The hyperparameters of a row's update in a step, besides the decay, see `RowSchedule`."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    clip_row_norm: float
    step: int


class WantedLeaves(NamedTuple):
    """The P leaves of B texts in a shard, text by text.

    Attributes:
        leaf_ptr: int64 [B + 1]; text b has the leaves leaf_ptr[b] .. leaf_ptr[b + 1] of the arrays below.
        first_rows: int64 [P], first local row of each.
        last_rows: int64 [P], one past its last.
        leaf_logits: float32 [P], see `joint_logit`; with infinity the rows' scores do not change.
        shift: int64 [P], label position minus local row.
    """

    leaf_ptr: np.ndarray
    first_rows: np.ndarray
    last_rows: np.ndarray
    leaf_logits: np.ndarray
    shift: np.ndarray


@njit
def pending_decay(last_step, log_decay, step):
    """The pending decay factor of a row last written at `last_step`, up to the end of `step`."""
    return np.float32(math.exp(log_decay[step] - log_decay[last_step]))


@njit(fastmath=FAST_MATH)
def update_row(r, gradient, bias_gradient, row_id, hyperparameters, log_decay, rows):
    """Update row `r` of `RowArrays` once; `row_id` identifies the row for rounding.

    On return, `gradient` contains the row's new weights.
    """
    weight, bias, moment, second = rows.weight, rows.bias, rows.moment, rows.second
    bias_moments, last_step, updates = rows.bias_moments, rows.last_step, rows.updates
    compensation, scales = rows.compensation, rows.scale
    lr, beta1, beta2 = hyperparameters.lr, hyperparameters.beta1, hyperparameters.beta2
    epsilon, clip, step = hyperparameters.epsilon, hyperparameters.clip_row_norm, hyperparameters.step
    width = weight.shape[1]
    square = np.float32(bias_gradient * bias_gradient)
    for d in range(width):
        square += gradient[d] * gradient[d]
    scale = np.float32(1.0)
    if clip > 0 and square > clip * clip:
        scale = np.float32(clip / math.sqrt(square))
    decay = pending_decay(last_step[r], log_decay, step) * scale_of(weight, scales, r)
    last_step[r] = step
    updates[r] += 1
    if moment.shape[1] == 0:
        for d in range(width):
            gradient[d] = load(weight, compensation, r, d) * decay - np.float32(lr) * scale * gradient[d]
        store(weight, compensation, scales, r, gradient, step, row_id)
        bias[r] -= np.float32(lr) * scale * bias_gradient
        return
    b1, b2 = np.float32(beta1), np.float32(beta2)
    one = np.float32(1)
    size = np.float32(lr / (1 - beta1 ** updates[r]))
    root = np.float32(1 / math.sqrt(1 - beta2 ** updates[r]))
    eps = np.float32(epsilon)
    if second.shape[1] == 1:
        mean = (square - np.float32(bias_gradient * bias_gradient)) * scale * scale / np.float32(width)
        second[r, 0] = b2 * second[r, 0] + (one - b2) * mean
        inverse = size / (math.sqrt(second[r, 0]) * root + eps)
        for d in range(width):
            moment[r, d] = b1 * moment[r, d] + (one - b1) * scale * gradient[d]
            gradient[d] = load(weight, compensation, r, d) * decay - np.float32(inverse) * moment[r, d]
    else:
        for d in range(width):
            g = scale * gradient[d]
            moment[r, d] = b1 * moment[r, d] + (one - b1) * g
            second[r, d] = b2 * second[r, d] + (one - b2) * g * g
            change = size * moment[r, d] / (np.sqrt(second[r, d]) * root + eps)
            gradient[d] = load(weight, compensation, r, d) * decay - change
    store(weight, compensation, scales, r, gradient, step, row_id)
    g = scale * np.float32(bias_gradient)
    bias_moments[r, 0] = b1 * bias_moments[r, 0] + (one - b1) * g
    bias_moments[r, 1] = b2 * bias_moments[r, 1] + (one - b2) * g * g
    bias[r] -= size * bias_moments[r, 0] / (np.sqrt(bias_moments[r, 1]) * root + eps)


@cached_njit(parallel=True, nogil=True)
def update_distinct_rows(chosen, gradients, bias_gradients, row_ids, hyperparameters, log_decay, rows):
    """Update chosen rows with given gradients, which are overwritten; see `cxml.optim.row_adamw.update_rows`."""
    for i in prange(len(chosen)):
        update_row(chosen[i], gradients[i], bias_gradients[i], row_ids[i], hyperparameters, log_decay, rows)


@njit(parallel=True)
def _segment_sum(sums, text_ptr, text_sums):
    """Each text's sum over the chunks, float32 [B, D + 1]; see `PartialSums`."""
    total = np.zeros((len(text_ptr) - 1, sums.shape[1]), np.float32)
    for t in prange(len(total)):
        for i in range(text_ptr[t], text_ptr[t + 1]):
            for d in range(sums.shape[1]):
                total[t, d] += sums[text_sums[i], d]
    return total


@cached_njit(parallel=True, nogil=True, fastmath=FAST_MATH)
def train_groups(
    groups, partial_sums, features, texts, shares, truth, scale, mode, hyperparameters, log_decay, rows, squares
):
    """Loss and gradients of all pairs, and the update of their rows.

    Args:
        groups: `cxml.optim.leaf_groups.LeafGroups`.
        partial_sums: their `PartialSums`; only its chunks are used in the modes `UPDATE` and `SQUARES`.
        features: float32 [S, D].
        texts: int32 [P].
        shares: float32 [P].
        truth: int32 [P, words], see `cxml.optim.candidates.Shortlists`.
        scale: factor of the rows' gradients; the features' gradient is the gradient of the unscaled sum.
        mode: `LOSS` computes the loss and the features' gradient, `LOSS_AND_UPDATE` also updates the rows, `UPDATE`
            only updates the rows, `SQUARES` only sums the squares of their gradients.
        hyperparameters: hyperparameters of the step.
        log_decay: `RowSchedule.log_decay`.
        rows: `RowArrays`.
        squares: float64 [chunks], zeros; written in mode `SQUARES`.

    Returns:
        float32 [S, D + 1]: the gradient of the summed loss by the features, and in the last column each text's loss.
        Undefined in the modes `UPDATE` and `SQUARES`.
    """
    starts, ends, shift, pair_ptr = groups.starts, groups.ends, groups.position_shift, groups.pair_ptr
    chunks, sum_ptr, pair_sums = partial_sums.chunks, partial_sums.sum_ptr, partial_sums.pair_sums
    weight, bias, last_step, scales = rows.weight, rows.bias, rows.last_step, rows.scale
    width, step = features.shape[1], hyperparameters.step
    sums = np.empty((len(partial_sums.text_sums), width + 1), np.float32)
    for chunk in prange(len(chunks) - 1):
        if mode <= LOSS_AND_UPDATE:
            sums[sum_ptr[chunk] : sum_ptr[chunk + 1]] = 0
        row_gradient = np.empty(width, np.float32)
        row = np.empty(width, np.float32)
        for g in range(chunks[chunk], chunks[chunk + 1]):
            for r in range(starts[g], ends[g]):
                # As of the end of the step before: this step's decay comes with its update.
                row_scale = pending_decay(last_step[r], log_decay, max(step - 1, 0)) * scale_of(weight, scales, r)
                for d in range(width):
                    row[d] = to_float(weight[r, d]) * row_scale
                    row_gradient[d] = 0
                bias_gradient = np.float32(0)
                word, bit = (r - starts[g]) // 32, (r - starts[g]) % 32
                for p in range(pair_ptr[g], pair_ptr[g + 1]):
                    t = texts[p]
                    logit = bias[r]
                    for d in range(width):
                        logit += row[d] * features[t, d]
                    is_true = np.float32((truth[p, word] >> bit) & 1)
                    tail = math.exp(-abs(logit))
                    probability = np.float32((1 if logit >= 0 else tail) / (1 + tail))
                    slope = (probability - is_true) * shares[p]
                    bias_gradient += slope
                    if mode <= LOSS_AND_UPDATE:
                        place = pair_sums[p]
                        loss = max(logit, np.float32(0)) - logit * is_true + np.float32(math.log1p(tail))
                        for d in range(width):
                            row_gradient[d] += slope * features[t, d]
                            sums[place, d] += slope * row[d]
                        sums[place, width] += loss * shares[p]
                    else:
                        for d in range(width):
                            row_gradient[d] += slope * features[t, d]
                if mode == LOSS:
                    continue
                for d in range(width):
                    row_gradient[d] *= scale
                if mode == SQUARES:
                    square = np.float64(bias_gradient * scale) ** 2
                    for d in range(width):
                        square += np.float64(row_gradient[d]) * np.float64(row_gradient[d])
                    squares[chunk] += square
                else:
                    update_row(r, row_gradient, bias_gradient * scale, r + shift[g], hyperparameters, log_decay, rows)
    return _segment_sum(sums, partial_sums.text_ptr, partial_sums.text_sums)


@njit
def ranking_key(score, own):
    """`cxml.model.ranking.ranking_keys` of one row: an int64 in the order of scores, ties in that of own logits."""
    # Shifted and added as int64, because numba widens narrower integers.
    return (np.int64(_ordered(score)) << 32) + np.int64(_ordered(own)) + 0x80000000


@njit
def _ordered(value):
    """An integer of 32 bits in the order of float32 values; 0 and -0 are equal."""
    bits = np.int64(np.float32(value).view(np.int32))
    if bits == -0x80000000:  # -0; the compiler would remove an addition of 0
        return np.int64(0)
    return bits ^ 0x7FFFFFFF if bits < 0 else bits


@njit(fastmath=FAST_MATH)
def joint_logit(logit, parent_logit):
    """`cxml.model.ranking.joint_logit` of one row."""
    low, high = min(logit, parent_logit), max(logit, parent_logit)
    rest = math.exp(-abs(high)) + math.exp(low - max(high, np.float32(0)))
    return np.float32(low + min(high, np.float32(0)) - math.log1p(rest))


@njit(fastmath=FAST_MATH)
def _offer(keys, positions, logit, parent_logit, position):
    """Insert a row into the best rows of a text, if it is one of them; both arrays are [k], best first."""
    low, high = min(logit, parent_logit), max(logit, parent_logit)
    # This upper bound of a joint logit needs no exponential, and excludes most rows.
    if _ordered(low + min(high, np.float32(0))) < keys[-1] >> 32:
        return
    key = ranking_key(joint_logit(logit, parent_logit), logit)
    if key <= keys[-1]:
        return
    place = len(keys) - 1
    while place > 0 and key > keys[place - 1]:
        keys[place] = keys[place - 1]
        positions[place] = positions[place - 1]
        place -= 1
    keys[place] = key
    positions[place] = position


@cached_njit(parallel=True, nogil=True, fastmath=FAST_MATH)
def best_rows(features, wanted, k, log_decay, step, rows):
    """The k best rows of each text among its leaves in this shard.

    Args:
        features: float32 [B, D].
        wanted: `WantedLeaves`.
        k: rows wanted per text.
        log_decay: `RowSchedule.log_decay`.
        step: the last step taken.
        rows: `RowArrays`.

    Returns:
        Keys int64 [B, k] of `ranking_key`, best first (`NO_KEY` for none), and label positions int64 [B, k] (-1 for
        none).
    """
    weight, bias, last_step, scales = rows.weight, rows.bias, rows.last_step, rows.scale
    leaf_ptr, first_rows, last_rows = wanted.leaf_ptr, wanted.first_rows, wanted.last_rows
    leaf_logits, shift = wanted.leaf_logits, wanted.shift
    width = features.shape[1]
    keys = np.full((features.shape[0], k), NO_KEY, np.int64)
    positions = np.full((features.shape[0], k), -1, np.int64)
    for b in prange(features.shape[0]):
        for p in range(leaf_ptr[b], leaf_ptr[b + 1]):
            for r in range(first_rows[p], last_rows[p]):
                product = np.float32(0)
                for d in range(width):
                    product += to_float(weight[r, d]) * features[b, d]
                row_scale = pending_decay(last_step[r], log_decay, step) * scale_of(weight, scales, r)
                logit = product * row_scale + bias[r]
                _offer(keys[b], positions[b], logit, leaf_logits[p], r + shift[p])
    return keys, positions


@cached_njit(parallel=True, nogil=True, fastmath=FAST_MATH)
def best_int8_rows(features, wanted, k, weight, scale, bias):
    """The k best rows of each text; `best_rows` for rows of `weight[r] * scale[r]`.

    Args:
        features: float32 [B, D].
        wanted: `WantedLeaves`.
        k: rows wanted per text.
        weight: int8 [R, D].
        scale: float32 [R].
        bias: float32 [R].

    Returns:
        Keys int64 [B, k] and label positions int64 [B, k], like `best_rows`.
    """
    leaf_ptr, first_rows, last_rows = wanted.leaf_ptr, wanted.first_rows, wanted.last_rows
    leaf_logits, shift = wanted.leaf_logits, wanted.shift
    width = features.shape[1]
    keys = np.full((features.shape[0], k), NO_KEY, np.int64)
    positions = np.full((features.shape[0], k), -1, np.int64)
    for b in prange(features.shape[0]):
        for p in range(leaf_ptr[b], leaf_ptr[b + 1]):
            for r in range(first_rows[p], last_rows[p]):
                product = np.float32(0)
                for d in range(width):
                    product += np.float32(weight[r, d]) * features[b, d]
                logit = product * scale[r] + bias[r]
                _offer(keys[b], positions[b], logit, leaf_logits[p], r + shift[p])
    return keys, positions


@cached_njit(parallel=True, nogil=True, fastmath=FAST_MATH)
def score_pairs(features, texts, first_rows, last_rows, logits, log_decay, step, rows):
    """Logits of the rows of each pair's leaf.

    Args:
        features: float32 [S, D].
        texts: int32 [P].
        first_rows: int64 [P], first row of each pair's leaf.
        last_rows: int64 [P], one past its last.
        logits: float32 [P, W], written for the rows of each leaf.
        log_decay: `RowSchedule.log_decay`.
        step: the last step taken.
        rows: `RowArrays`.
    """
    weight, bias, last_step, scales = rows.weight, rows.bias, rows.last_step, rows.scale
    width = features.shape[1]
    for p in prange(len(texts)):
        for r in range(first_rows[p], last_rows[p]):
            product = np.float32(0)
            for d in range(width):
                product += to_float(weight[r, d]) * features[texts[p], d]
            row_scale = pending_decay(last_step[r], log_decay, step) * scale_of(weight, scales, r)
            logits[p, r - first_rows[p]] = product * row_scale + bias[r]
