"""The order of the examples and its cuts: pure functions of (number of rows, seed, epoch, position)."""

from __future__ import annotations

import numpy as np


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 [N] in which `epoch` visits the rows.

    The random words of Philox and a stable sort are fixed for good, unlike `Generator.permutation`, which NumPy may
    change between releases: a job resumes in the same order after an upgrade.
    """
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_rows)
    return np.argsort(words, kind="stable")


def cut(total: int, parts: int) -> np.ndarray:
    """Bounds int64 [parts + 1] that cut `total` things into `parts` runs whose sizes differ by at most one."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts
