"""Steps with a budget of tokens: texts of similar length, as many as fit with their padding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from cxml.data.order import cut, epoch_order
from cxml.data.ragged import lengths_to_offsets, range_indices

_CLASSES = 64  # about so many; the padding of a text is within the lengths of its class
_LEAST_STEPS = 4  # of a class: texts meet others than those next to them in length


@dataclass(frozen=True)
class TokenSteps:
    """How the texts, longest first, are cut into steps. The same in every epoch: only who shares a step changes.

    Attributes:
        bounds: int64 [steps + 1], of the steps among the texts from the longest to the shortest.
        classes: int64 [classes + 1], of the length classes among the steps. The texts of a class are shuffled.
    """

    bounds: np.ndarray
    classes: np.ndarray

    @classmethod
    def plan(cls, lengths: np.ndarray, budget: int) -> TokenSteps:
        """Cut N texts into as few steps as hold them.

        Neither the number of processes nor of micro-batches matters: a step counts as padded to the longest text of its
        class throughout. A text that alone is longer than the budget has a step of its own.

        Args:
            lengths: int64 [N], tokens of each text.
            budget: most tokens of a step, with padding.
        """
        longest_first = -np.sort(-lengths)
        steps_of_class = max(_LEAST_STEPS, -(-int(lengths.sum()) // (budget * _CLASSES)))
        bounds, classes, start = [np.zeros(1, np.int64)], [0], 0
        while start < len(lengths):
            texts = _texts_of_step(longest_first, start, budget)
            stop = start + texts * steps_of_class
            if stop + _texts_of_step(longest_first, stop, budget) * steps_of_class > len(lengths):
                stop = len(lengths)  # what is left would not fill a class
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
        """An epoch's steps: texts of each class by chance, steps of all classes in turn by chance.

        Args:
            order: int64 [N], the epoch's order of rows.
            lengths: int64 [N], tokens of each row.
            seed: of the shuffle.
            epoch: of the shuffle.

        Returns:
            The rows int64 [N], step after step, and the bounds int64 [steps + 1] of the steps in them.
        """
        places = _longest_first(lengths[order])  # in the order; texts of one length stay in turn
        for start, stop in itertools.pairwise(self.bounds[self.classes].tolist()):
            places[start:stop].sort()
        shuffled = epoch_order(self.num_steps, seed + 1, epoch)
        sizes = np.diff(self.bounds)[shuffled]
        return order[places[range_indices(self.bounds[shuffled], sizes)]], lengths_to_offsets(sizes)


def _texts_of_step(longest_first: np.ndarray, start: int, budget: int) -> int:
    """How many texts as long as the one at `start` fit, rounded down so that 2, 4, 8, ... processes get as many each.

    The step is a multiple of the largest power of two that is no more than an eighth of it, whatever the number of
    processes: it must not depend on that.
    """
    if start >= len(longest_first):
        return 1
    most = max(1, budget // max(1, int(longest_first[start])))
    return most - most % (1 << max(0, (most // 8).bit_length() - 1))


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    """Places int64 [N] by falling length, stable."""
    missing = lengths.max(initial=0) - lengths
    if missing.max(initial=0) < 2**16:
        missing = missing.astype(np.uint16)  # NumPy sorts these by radix
    return np.argsort(missing, kind="stable")
