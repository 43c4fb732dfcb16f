"""Steps with a token budget: as many texts of similar length as fit with their padding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from cxml.data.order import cut, epoch_order
from cxml.data.ragged import lengths_to_offsets, range_indices

_CLASSES = 64  # approximate number; a text is padded at most to the longest of its class
_LEAST_STEPS = 4  # per class, so that texts are mixed with others than their neighbours in length


@dataclass(frozen=True)
class TokenSteps:
    """The partition of the texts, longest first, into steps. It is fixed; only the texts within a class are shuffled.

    Attributes:
        bounds: int64 [steps + 1], bounds of the steps in the texts sorted from longest to shortest.
        classes: int64 [classes + 1], bounds of the length classes in the steps.
    """

    bounds: np.ndarray
    classes: np.ndarray

    @classmethod
    def plan(cls, lengths: np.ndarray, budget: int) -> TokenSteps:
        """Split N texts into as few steps as possible.

        The result depends neither on the number of processes nor of micro-batches: all texts of a step count as padded
        to the longest text of their class. A text longer than the budget has a separate step.

        Args:
            lengths: int64 [N], tokens of each text.
            budget: most tokens of a step, including padding.
        """
        longest_first = -np.sort(-lengths)
        steps_of_class = max(_LEAST_STEPS, -(-int(lengths.sum()) // (budget * _CLASSES)))
        bounds, classes, start = [np.zeros(1, np.int64)], [0], 0
        while start < len(lengths):
            texts = _texts_of_step(longest_first, start, budget)
            stop = start + texts * steps_of_class
            if stop + _texts_of_step(longest_first, stop, budget) * steps_of_class > len(lengths):
                stop = len(lengths)  # the rest would not fill a class
            steps = -(-(stop - start) // texts)
            bounds.append(start + cut(stop - start, steps)[1:])
            classes.append(classes[-1] + steps)
            start = stop
        return cls(np.concatenate(bounds), np.array(classes, np.int64))

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.bounds) - 1

    def arrange(self, order: np.ndarray, lengths: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's steps, with the texts shuffled within each class, and the steps shuffled over all classes.

        Args:
            order: int64 [N], the epoch's order of rows.
            lengths: int64 [N], tokens of each row.
            seed: seed of the shuffle.
            epoch: epoch of the shuffle.

        Returns:
            The rows int64 [N] in step order, and the bounds int64 [steps + 1] of the steps in them.
        """
        places = _longest_first(lengths[order])  # stable: texts of equal length keep the order
        for start, stop in itertools.pairwise(self.bounds[self.classes].tolist()):
            places[start:stop].sort()
        shuffled = epoch_order(self.num_steps, seed + 1, epoch)
        sizes = np.diff(self.bounds)[shuffled]
        return order[places[range_indices(self.bounds[shuffled], sizes)]], lengths_to_offsets(sizes)


def _texts_of_step(longest_first: np.ndarray, start: int, budget: int) -> int:
    """The number of texts as long as the one at `start` that fit, rounded for equal shares on 2, 4, 8, ... processes.

    The step is rounded down to a multiple of the largest power of two that is at most an eighth of it. It must not
    depend on the actual number of processes.
    """
    if start >= len(longest_first):
        return 1
    most = max(1, budget // max(1, int(longest_first[start])))
    return most - most % (1 << max(0, (most // 8).bit_length() - 1))


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    """Positions int64 [N] sorted by descending length, stable."""
    missing = lengths.max(initial=0) - lengths
    if missing.max(initial=0) < 2**16:
        missing = missing.astype(np.uint16)  # NumPy uses radix sort for uint16
    return np.argsort(missing, kind="stable")
