"""Sampling variation of metrics: the bootstrap (Efron 1979) over whole examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cxml.metrics.ranking import BEST_SUM

_AT_ONCE = 16


class Interval(NamedTuple):
    """An interval that contains a share of the resampled values."""

    low: float
    high: float


def resampled_metrics(
    rows: Mapping[str, np.ndarray], ks: Sequence[int], num_resamples: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Metrics in percent of bootstrap samples: N examples drawn with replacement.

    The draws depend only on the number of examples and the seed, so systems can be compared on the same draws of the
    same examples (a paired bootstrap).

    Args:
        rows: result of `cxml.metrics.metric_rows` for N examples.
        ks: cut-offs of the rows.
        num_resamples: R.
        seed: seed of the draws.

    Returns:
        float64 [R] for each metric, such as "P@1".

    Raises:
        ValueError: there are no examples.
    """
    values = np.concatenate(list(rows.values()), axis=1)
    num_examples = len(values)
    if num_examples == 0:
        raise ValueError("metrics of zero examples are undefined")
    generator = np.random.default_rng(seed)
    sums = np.empty((num_resamples, values.shape[1]))
    for start in range(0, num_resamples, _AT_ONCE):
        counts = [
            np.bincount(generator.integers(0, num_examples, num_examples), minlength=num_examples)
            for _ in range(min(_AT_ONCE, num_resamples - start))
        ]
        sums[start : start + len(counts)] = np.array(counts, np.float64) @ values
    by_name = dict(zip(rows, np.split(sums, len(rows), axis=1), strict=True))
    found = {}
    for name, totals in by_name.items():
        if name.endswith(BEST_SUM):
            continue
        best = by_name.get(name + BEST_SUM, np.full_like(totals, num_examples))
        shares = 100 * np.divide(totals, best, out=np.zeros_like(totals), where=best > 0)
        found |= {f"{name}@{k}": shares[:, column] for column, k in enumerate(ks)}
    return found


def interval(resampled: np.ndarray, share: float = 0.95) -> Interval:
    """The middle `share` of resampled values."""
    low, high = np.quantile(resampled, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(low), float(high))
