"""Compiled loops over the label rows that a batch's shortlists touch, on the CPU.

Pairs (text, leaf) are grouped by leaf, so that a leaf's rows are read once, in one run, however many texts want them;
in that one visit a row is scored, its loss and both gradients are taken, and it is updated.

The work is cut into a fixed number of chunks, each with sums of its own that are added in order: the result does not
depend on the number of threads. All compiled code stands in this one file because numba's cache on disk only notices
changes of the file that a function stands in.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange, uint32
from numba.extending import overload

from cxml.jit import cached_njit

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_HALF = 0x8000  # as noise it makes rounding to bfloat16 go to nearest
_LEAST_NORMAL = np.float32(2**-6)  # of e4m3
_NO_KEY = -(2**63)  # cxml.model.ranking.NO_KEY


def _value(stored):
    raise AssertionError("only compiled code calls this")


@overload(_value)
def _value_overload(stored):
    """A stored weight as float32: itself, a bfloat16's bits in the upper half, or e4m3 before it is scaled."""
    if str(stored) == "uint8":
        return lambda stored: _value_of_fp8(stored)  # noqa: PLW0108 - numba takes no compiled function here
    if str(stored) == "uint16":
        # The shift widens to 64 bits, so its result is narrowed again.
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@njit
def _value_of_fp8(bits):
    """See `cxml.optim.row_formats`; the exponent is moved, but where there is none."""
    size = np.uint32(bits & np.uint8(0x7F))
    normal = np.uint32((size << np.uint32(20)) + np.uint32(120 << 23)).view(np.float32)
    value = normal if size >= np.uint32(8) else np.float32(np.int32(size)) * np.float32(2**-9)
    return -value if bits & np.uint8(0x80) else value


@njit
def _fp8_of(value, noise):
    """`cxml.optim.row_formats.to_fp8` of one number that is scaled already; `noise` has at least 20 random bits."""
    size = abs(np.float32(value))
    is_small = size < _LEAST_NORMAL
    rounded = size + _LEAST_NORMAL if is_small else size
    code = uint32(uint32(np.float32(rounded).view(np.uint32) + uint32(noise & uint32(0xFFFFF))) >> uint32(20))
    sign = uint32(uint32(np.float32(value).view(np.uint32) >> uint32(24)) & uint32(0x80))
    return np.uint8(uint32(code - uint32(968 if is_small else 960)) | sign)


@njit
def _exponent_of_scale(values):
    """As float32 has it, of the scale that `cxml.optim.row_formats.to_fp8` gives a row."""
    largest = np.float32(0)
    for d in range(len(values)):
        largest = max(largest, abs(values[d]))
    return max((np.int32(np.float32(largest).view(np.int32)) - 1) >> 23, 27) - 7


def _scale_of(weight, scale, r):
    raise AssertionError("only compiled code calls this")


@overload(_scale_of)
def _scale_of_overload(weight, scale, r):
    """What the values of a row are multiplied by."""
    if str(weight.dtype) == "uint8":
        return lambda weight, scale, r: scale[r]
    return lambda weight, scale, r: np.float32(1)


def _stored(like, value, noise):
    raise AssertionError("only compiled code calls this")


@overload(_stored)
def _stored_overload(like, value, noise):
    """A float32 as it is stored: itself, or rounded to bfloat16 up or down in proportion (`noise`: 16 random bits)."""
    if str(like) == "uint16":
        return lambda like, value, noise: np.uint16(
            np.uint32(np.float32(value).view(np.uint32) + np.uint32(noise & 0xFFFF)) >> np.uint32(16)
        )
    return lambda like, value, noise: np.float32(value)


@njit
def _noise(step, row, column):
    """32 bits that look random and depend on nothing but where they are used, so runs can be repeated."""
    # Products widen to 64 bits, so each is narrowed again.
    mixed = uint32(
        uint32(row) * uint32(2654435761) ^ uint32(column) * uint32(2246822519) ^ uint32(step) * uint32(3266489917)
    )
    mixed = uint32(uint32(mixed ^ (mixed >> uint32(15))) * uint32(2246822519))
    mixed = uint32(uint32(mixed ^ (mixed >> uint32(13))) * uint32(3266489917))
    return uint32(mixed ^ (mixed >> uint32(16)))


def _load(weight, lost, r, d):
    raise AssertionError("only compiled code calls this")


@overload(_load)
def _load_overload(weight, lost, r, d):
    """A weight as float32, with what rounding took from it where that is kept, which its type tells: no branch."""
    if str(lost.dtype) == "uint16":
        return lambda weight, lost, r, d: _value(weight[r, d]) + _value(lost[r, d])
    return lambda weight, lost, r, d: _value(weight[r, d])


def _store(weight, lost, scale, r, values, step, row_id):
    raise AssertionError("only compiled code calls this")


@overload(_store)
def _store_overload(weight, lost, scale, r, values, step, row_id):
    """Write a row of float32, rounded as the arrays say."""

    def rounded_at_random(weight, lost, scale, r, values, step, row_id):
        for d in range(len(values)):
            weight[r, d] = _stored(weight[r, d], values[d], _noise(step, row_id, d))

    def rounded_to_nearest(weight, lost, scale, r, values, step, row_id):
        for d in range(len(values)):
            weight[r, d] = _stored(weight[r, d], values[d], _HALF)
            lost[r, d] = _stored(lost[r, d], values[d] - _value(weight[r, d]), _HALF)

    def scaled(weight, lost, scale, r, values, step, row_id):
        exponent = _exponent_of_scale(values)
        scale[r] = np.int32(exponent << 23).view(np.float32)
        inverse = np.int32((254 - exponent) << 23).view(np.float32)
        for d in range(len(values)):
            weight[r, d] = _fp8_of(values[d] * inverse, _noise(step, row_id, d))

    if str(weight.dtype) == "uint8":
        return scaled
    return rounded_to_nearest if str(lost.dtype) == "uint16" else rounded_at_random


@njit
def pending_decay(last_step, log_decay, step):
    """The factor that a row last written at `last_step` still has to take, to be as of the end of `step`."""
    return np.float32(math.exp(log_decay[step] - log_decay[last_step]))


@njit(fastmath=_FAST)
def update_row(r, gradient, bias_gradient, row_id, numbers, log_decay, state):
    """One update of row `r`; `state` holds the arrays of `RowState` in order, `row_id` names the row for rounding.

    The row's new weights stand in `gradient` in the end.
    """
    weight, bias, moment, second, bias_moments, last_step, updates, lost, scales = state
    lr, beta1, beta2, epsilon, clip, step = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], int(numbers[5])
    width = weight.shape[1]
    square = np.float32(bias_gradient * bias_gradient)
    for d in range(width):
        square += gradient[d] * gradient[d]
    scale = np.float32(1.0)
    if clip > 0 and square > clip * clip:
        scale = np.float32(clip / math.sqrt(square))
    decay = pending_decay(last_step[r], log_decay, step) * _scale_of(weight, scales, r)
    last_step[r] = step
    updates[r] += 1
    if moment.shape[1] == 0:
        for d in range(width):
            gradient[d] = _load(weight, lost, r, d) * decay - np.float32(lr) * scale * gradient[d]
        _store(weight, lost, scales, r, gradient, step, row_id)
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
            gradient[d] = _load(weight, lost, r, d) * decay - np.float32(inverse) * moment[r, d]
    else:
        for d in range(width):
            g = scale * gradient[d]
            moment[r, d] = b1 * moment[r, d] + (one - b1) * g
            second[r, d] = b2 * second[r, d] + (one - b2) * g * g
            change = size * moment[r, d] / (np.sqrt(second[r, d]) * root + eps)
            gradient[d] = _load(weight, lost, r, d) * decay - change
    _store(weight, lost, scales, r, gradient, step, row_id)
    g = scale * np.float32(bias_gradient)
    bias_moments[r, 0] = b1 * bias_moments[r, 0] + (one - b1) * g
    bias_moments[r, 1] = b2 * bias_moments[r, 1] + (one - b2) * g * g
    bias[r] -= size * bias_moments[r, 0] / (np.sqrt(bias_moments[r, 1]) * root + eps)


@cached_njit(parallel=True, nogil=True)
def update_distinct_rows(rows, gradients, bias_gradients, row_ids, numbers, log_decay, state):
    """Update rows from gradients at hand, which are overwritten; see `cxml.optim.row_adamw.update_rows`."""
    for i in prange(len(rows)):
        update_row(rows[i], gradients[i], bias_gradients[i], row_ids[i], numbers, log_decay, state)


@njit(parallel=True)
def _add_up(sums, text_ptr, text_sums):
    """Each text's sum over the chunks, float32 [B, D + 1]; see `PartialSums`."""
    total = np.zeros((len(text_ptr) - 1, sums.shape[1]), np.float32)
    for t in prange(len(total)):
        for i in range(text_ptr[t], text_ptr[t + 1]):
            for d in range(sums.shape[1]):
                total[t, d] += sums[text_sums[i], d]
    return total


@cached_njit(parallel=True, nogil=True, fastmath=_FAST)
def train_groups(groups, partial_sums, features, texts, shares, truth, scale, mode, numbers, log_decay, state, squares):
    """Loss and gradients of all pairs, and the update of their rows.

    Args:
        groups: `LeafGroups.arrays()`.
        partial_sums: `PartialSums.arrays()`; only its chunks are used in modes 2 and 3.
        features: float32 [S, D].
        texts: int32 [P].
        shares: float32 [P].
        truth: int32 [P, words], see `cxml.optim.candidates.Shortlists`.
        scale: factor of the rows' gradients; the features' gradient is that of the plain sum.
        mode: 0 is the loss and the features' gradient, 1 updates the rows as well, 2 only updates the rows, 3 only adds
            up the squares of their gradients.
        numbers: `RowSchedule.pack()`.
        log_decay: `RowSchedule.log_decay`.
        state: the arrays of `RowState`.
        squares: float64 [chunks], zeros; written in mode 3.

    Returns:
        float32 [S, D + 1]: the gradient of the features of the summed loss, and in the last column each text's loss.
        Zeros in modes 2 and 3.
    """
    starts, ends, shift, pair_ptr = groups
    weight, bias, last_step, scales = state[0], state[1], state[5], state[8]
    width, step = features.shape[1], int(numbers[5])
    chunks, sum_ptr, pair_sums, text_ptr, text_sums = partial_sums
    sums = np.empty((len(text_sums), width + 1), np.float32)
    for chunk in prange(len(chunks) - 1):
        if mode < 2:
            sums[sum_ptr[chunk] : sum_ptr[chunk + 1]] = 0
        row_gradient = np.empty(width, np.float32)
        row = np.empty(width, np.float32)
        for g in range(chunks[chunk], chunks[chunk + 1]):
            for r in range(starts[g], ends[g]):
                # As of the end of the step before: this step's decay comes with its update.
                settled = pending_decay(last_step[r], log_decay, max(step - 1, 0)) * _scale_of(weight, scales, r)
                for d in range(width):
                    row[d] = _value(weight[r, d]) * settled
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
                    if mode < 2:
                        place = pair_sums[p]
                        loss = max(logit, np.float32(0)) - logit * is_true + np.float32(math.log1p(tail))
                        for d in range(width):
                            row_gradient[d] += slope * features[t, d]
                            sums[place, d] += slope * row[d]
                        sums[place, width] += loss * shares[p]
                    else:
                        for d in range(width):
                            row_gradient[d] += slope * features[t, d]
                if mode == 0:
                    continue
                for d in range(width):
                    row_gradient[d] *= scale
                if mode == 3:
                    square = np.float64(bias_gradient * scale) ** 2
                    for d in range(width):
                        square += np.float64(row_gradient[d]) * np.float64(row_gradient[d])
                    squares[chunk] += square
                else:
                    update_row(r, row_gradient, bias_gradient * scale, r + shift[g], numbers, log_decay, state)
    return _add_up(sums, text_ptr, text_sums)


@njit
def ranking_key(score, own):
    """`cxml.model.ranking.ranking_keys` of one row: an int64 in the order of scores, ties in that of own logits."""
    # Shifted and added as int64: numba keeps no narrower integers.
    return (np.int64(_ordered(score)) << 32) + np.int64(_ordered(own)) + 0x80000000


@njit
def _ordered(value):
    """An integer of 32 bits in the order of float32 values; 0 and -0 are equal."""
    bits = np.int64(np.float32(value).view(np.int32))
    if bits == -0x80000000:  # -0; adding 0 to it is no cure, for the compiler leaves that out
        return np.int64(0)
    return bits ^ 0x7FFFFFFF if bits < 0 else bits


@njit(fastmath=_FAST)
def joint_logit(logit, parent_logit):
    """`cxml.model.ranking.joint_logit` of one row."""
    low, high = min(logit, parent_logit), max(logit, parent_logit)
    rest = math.exp(-abs(high)) + math.exp(low - max(high, np.float32(0)))
    return np.float32(low + min(high, np.float32(0)) - math.log1p(rest))


@njit(fastmath=_FAST)
def _offer(keys, positions, logit, parent_logit, position):
    """Put a row among the best of a text, both arrays [k] and best first, if it belongs there."""
    low, high = min(logit, parent_logit), max(logit, parent_logit)
    # A joint logit is at most this, which needs no exponential: most rows are dismissed by it.
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


@cached_njit(parallel=True, nogil=True, fastmath=_FAST)
def best_rows(features, leaf_ptr, first_rows, last_rows, leaf_logits, shift, k, log_decay, step, state):
    """The k best rows of each text among the leaves that it wants of this shard.

    Args:
        features: float32 [B, D].
        leaf_ptr: int64 [B + 1]; text b wants the leaves leaf_ptr[b] .. leaf_ptr[b + 1] of the arrays below.
        first_rows: int64 [P], first local row of each; last_rows: one past its last.
        last_rows: int64 [P].
        leaf_logits: float32 [P], see `joint_logit`; infinity leaves the rows' scores as they are.
        shift: int64 [P], label position minus local row.
        k: rows wanted per text.
        log_decay: `RowSchedule.log_decay`.
        step: the last step taken.
        state: the arrays of `RowState`.

    Returns:
        Keys int64 [B, k] of `ranking_key`, best first (`NO_KEY` where there is none), and label positions int64 [B, k]
        (-1 likewise).
    """
    weight, bias, last_step, scales = state[0], state[1], state[5], state[8]
    width = features.shape[1]
    keys = np.full((features.shape[0], k), _NO_KEY, np.int64)
    positions = np.full((features.shape[0], k), -1, np.int64)
    for b in prange(features.shape[0]):
        for p in range(leaf_ptr[b], leaf_ptr[b + 1]):
            for r in range(first_rows[p], last_rows[p]):
                product = np.float32(0)
                for d in range(width):
                    product += _value(weight[r, d]) * features[b, d]
                settled = pending_decay(last_step[r], log_decay, step) * _scale_of(weight, scales, r)
                logit = product * settled + bias[r]
                _offer(keys[b], positions[b], logit, leaf_logits[p], r + shift[p])
    return keys, positions


@cached_njit(parallel=True, nogil=True, fastmath=_FAST)
def best_int8_rows(features, leaf_ptr, first_rows, last_rows, leaf_logits, shift, k, weight, scale, bias):
    """The k best rows of each text; `best_rows` for rows of `weight[r] * scale[r]`.

    Args:
        features: float32 [B, D].
        leaf_ptr: int64 [B + 1]; this and the next four are those of `best_rows`.
        first_rows: int64 [P].
        last_rows: int64 [P].
        leaf_logits: float32 [P].
        shift: int64 [P].
        k: rows wanted per text.
        weight: int8 [R, D].
        scale: float32 [R].
        bias: float32 [R].

    Returns:
        Keys int64 [B, k] and label positions int64 [B, k] as those of `best_rows`.
    """
    width = features.shape[1]
    keys = np.full((features.shape[0], k), _NO_KEY, np.int64)
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


@cached_njit(parallel=True, nogil=True, fastmath=_FAST)
def score_pairs(features, texts, first_rows, last_rows, logits, log_decay, step, state):
    """Logits of the rows of each pair's leaf.

    Args:
        features: float32 [S, D].
        texts: int32 [P].
        first_rows: int64 [P], first row of each pair's leaf; last_rows: one past its last.
        last_rows: int64 [P].
        logits: float32 [P, W], written where there are rows.
        log_decay: `RowSchedule.log_decay`.
        step: the step that rows are to be as of the end of.
        state: the arrays of `RowState`.
    """
    weight, bias, last_step, scales = state[0], state[1], state[5], state[8]
    width = features.shape[1]
    for p in prange(len(texts)):
        for r in range(first_rows[p], last_rows[p]):
            product = np.float32(0)
            for d in range(width):
                product += _value(weight[r, d]) * features[texts[p], d]
            settled = pending_decay(last_step[r], log_decay, step) * _scale_of(weight, scales, r)
            logits[p, r - first_rows[p]] = product * settled + bias[r]
