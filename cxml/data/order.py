"""The order of the examples and its partition: pure functions of (rows, lengths, seed, epoch, position).

`epoch_order` visits every text once in random order. `bucket` rearranges it into batches of texts of similar length
with about the same number of tokens.
"""

from __future__ import annotations

import numpy as np

_STEPS_PER_WINDOW = 64
_SMALLEST_SHARE = 8


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 [N] in which `epoch` visits the rows.

    Philox's random words and a stable sort never change, unlike `Generator.permutation`, which NumPy may change between
    releases. A job therefore resumes in the same order after an upgrade.
    """
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_rows)
    return np.argsort(words, kind="stable")


def cut(total: int, parts: int) -> np.ndarray:
    """Bounds int64 [parts + 1] that split `total` items into `parts` ranges whose sizes differ by at most one."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def smallest_batch(rows: int, steps: int) -> int:
    """Least number of texts in a batch: an eighth of the mean."""
    return max(1, rows // steps // _SMALLEST_SHARE)


def bucket(order: np.ndarray, lengths: np.ndarray, steps: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rearrange an epoch's order into global batches with little padding.

    The order is split into windows of 64 batches. In each window the texts are sorted by length and split into batches
    with about equal numbers of tokens, so batches of short texts have more texts. Then the batches of all windows are
    shuffled. The result depends only on the arguments, so global batches are the same for any number of ranks.

    Args:
        order: int64 [N], the epoch's order of rows.
        lengths: int64 [N], tokens of each row.
        steps: batches to make.
        seed: seed of the shuffle.
        epoch: epoch of the shuffle.

    Returns:
        The new order int64 [N], and bounds int64 [steps + 1] of the batches in it.
    """
    least = smallest_batch(len(order), steps)
    num_windows = -(-steps // _STEPS_PER_WINDOW)
    window_steps = cut(steps, num_windows)
    window_rows = cut(len(order), steps)[window_steps]
    batches: list[np.ndarray] = []
    for window in range(num_windows):
        rows = order[window_rows[window] : window_rows[window + 1]]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        bounds = _equal_sums(lengths[rows], int(window_steps[window + 1] - window_steps[window]), least)
        batches += np.split(rows, bounds[1:-1])
    shuffled = [batches[batch] for batch in epoch_order(steps, seed + 1, epoch)]
    sizes = np.array([len(batch) for batch in shuffled], np.int64)
    return np.concatenate(shuffled), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _equal_sums(lengths: np.ndarray, parts: int, least: int) -> np.ndarray:
    """Bounds int64 [parts + 1] of ranges with about equal sums of `lengths`, each with at least `least` entries."""
    sums = np.cumsum(lengths)
    inner = np.searchsorted(sums, sums[-1] * np.arange(1, parts) / parts)
    bounds = np.concatenate([[0], inner, [len(lengths)]])
    steps = least * np.arange(parts + 1)
    bounds = np.maximum.accumulate(bounds - steps) + steps  # enforces the least size from the left
    return np.minimum(bounds, len(lengths) - steps[::-1])  # and from the right
