"""Beam search down the label tree by the word model's classifiers.

The classifiers of a cluster's children are stored by word: each word of a text points to all children with a weight for
it, so the cost of a text depends on the weights that its words hit, not on the size of the classifiers.
"""

# numba compiles these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxml.evidence.classifiers import Texts
from cxml.jit import cached_njit


class LevelWeights(NamedTuple):
    """The classifiers of a level's n nodes: a sparse matrix with a row for each pair of a parent and a word."""

    starts: np.ndarray
    """int64 [parents + 1]: the rows of each parent."""
    words: np.ndarray
    """int32 [rows]: the word of each row, rising within a parent."""
    offsets: np.ndarray
    """int64 [rows + 1]: the weights of each row."""
    nodes: np.ndarray
    """int32 [weights]: the child that a weight belongs to, as a node of the level."""
    values: np.ndarray
    """float32 [weights]."""
    bias: np.ndarray
    """float32 [n]."""


class Step(NamedTuple):
    """One level of a search."""

    texts: Texts
    """Tf-idf."""
    level: LevelWeights
    """The classifiers of the children."""
    children: np.ndarray
    """int64 [parents + 1]: the children of each parent."""


@cached_njit(nogil=True)
def descend(step: Step, first: int, beam: np.ndarray, scores: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The best children of each text's beam of nodes.

    Args:
        step: the level.
        first: the text of the first row of `beam`; the next ones follow it.
        beam: int64 [n, B], the selected nodes, -1 for none.
        scores: float32 [n, B], their log-probabilities.
        width: children to keep, W.

    Returns:
        Nodes int64 [n, W], best first, -1 for none, and their log-probabilities, float32.
    """
    children = step.children
    found = np.full((len(beam), width), -1, np.int64)
    found_scores = np.full((len(beam), width), np.float32(-np.inf))
    for row in range(len(beam)):
        count = 0
        for parent in beam[row]:
            if parent >= 0:
                count += children[parent + 1] - children[parent]
        nodes, total = np.empty(count, np.int64), np.empty(count, np.float32)
        count = 0
        for place in range(beam.shape[1]):
            parent = beam[row, place]
            if parent < 0:
                continue
            own = _margins(step, first + row, parent)
            for i in range(len(own)):
                miss = max(0.0, 1.0 - own[i])
                nodes[count] = children[parent] + i
                total[count] = scores[row, place] - miss * miss
                count += 1
        order = np.argsort(-total, kind="mergesort")[:width]
        for i in range(len(order)):
            found[row, i], found_scores[row, i] = nodes[order[i]], total[order[i]]
    return found, found_scores


@cached_njit(nogil=True)
def _margins(step: Step, text: int, parent: int) -> np.ndarray:
    """The margins of the classifiers of a parent's children for a text, float32 [children]."""
    texts, level, children = step
    first = children[parent]
    own = level.bias[first : children[parent + 1]].copy()
    start, stop = level.starts[parent], level.starts[parent + 1]
    for place in range(texts.indptr[text], texts.indptr[text + 1]):
        row = start + np.searchsorted(level.words[start:stop], texts.indices[place])
        if row < stop and level.words[row] == texts.indices[place]:
            for weight in range(level.offsets[row], level.offsets[row + 1]):
                own[level.nodes[weight] - first] += level.values[weight] * texts.values[place]
    return own
