"""A set of keys with 8 bytes per key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class SeenKeys:
    """A grow-only set of keys.

    Keys are stored as 64-bit hashes; among 50 million keys, the probability of a collision is 1 in 15,000. The hashes
    are in sorted arrays of doubling sizes, like the levels of a log-structured merge tree.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: Sequence[str]) -> np.ndarray:
        """Add keys. Returns the sorted positions, int64, of keys seen before, in this or an earlier call."""
        hashes = np.fromiter(map(_hash, keys), np.uint64, len(keys))
        seen = np.zeros(len(hashes), bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            seen |= run[np.minimum(places, len(run) - 1)] == hashes
        fresh, first_places = np.unique(hashes, return_index=True)
        repeated = np.ones(len(hashes), bool)
        repeated[first_places] = False
        self._merge(fresh[~seen[first_places]])
        return np.flatnonzero(seen | repeated)

    def _merge(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
