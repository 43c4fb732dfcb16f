"""Linear classifiers of one node each, by dual coordinate descent: the kernel that trains the word model.

A classifier separates the texts of a node from the other texts of its parent, by the L2-regularised squared hinge loss
(Hsieh et al., ICML 2008, algorithms 1 and 3): min 1/2 |w|^2 + C sum max(0, 1 - y w.x)^2, where x has one more feature
of value 1, whose weight is the bias. Every text has a dual variable, so a pass is linear in the words of the texts.
"""

# numba compiles these functions and accepts Python and numpy scalars alike; pyright does not.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxml.jit import cached_njit

_STILL = 1e-12
_MIX, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


class Texts(NamedTuple):
    """Tf-idf of N texts, CSR [N, F]."""

    indptr: np.ndarray
    """int64 [N + 1]."""
    indices: np.ndarray
    """int32 [nnz]."""
    values: np.ndarray
    """float32 [nnz]."""


class Groups(NamedTuple):
    """Texts of each node, rising, end to end."""

    offsets: np.ndarray
    """int64 [nodes + 1]."""
    texts: np.ndarray
    """int32 [pairs]."""


class Level(NamedTuple):
    """The problems of a level's nodes."""

    texts: Texts
    """Of the training."""
    above: Groups
    """Texts of each node of the level above."""
    own: Groups
    """Texts of each node of this level; a part of those of its parent."""
    parent: np.ndarray
    """int64 [nodes], of this level."""
    num_features: int
    """F."""


class Problem(NamedTuple):
    """The binary problem of one classifier."""

    texts: Texts
    """Of the training."""
    rows: np.ndarray
    """int32 [n], which of them."""
    signs: np.ndarray
    """int8 [n], 1 for those of the node, -1 for the others."""


class Solver(NamedTuple):
    """How a classifier is trained."""

    cost: float
    """C: weight of a text's loss relative to the squared weights."""
    tolerance: float
    """Training stops when projected gradients differ by at most this."""
    max_passes: int
    """Most passes over the texts."""
    least_weight: float
    """Weights smaller than this are dropped after training."""


@cached_njit(nogil=True)
def train_nodes(
    level: Level, first: int, last: int, solver: Solver, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train the classifiers of the nodes first..last - 1 of a level.

    Args:
        level: its problems.
        first: the first node.
        last: one past the last node.
        solver: solver settings.
        seed: seed of the order in which texts are visited, combined with the node's number.

    Returns:
        Weights as CSR rows, one per node: offsets int64 [last - first + 1], features int32 (in no order) and values
        float32; and the biases, float32 [last - first]. A node without texts has no weights and the bias -1.
    """
    texts, above, own, num_features = level.texts, level.above, level.own, level.num_features
    offsets = np.zeros(last - first + 1, np.int64)
    biases = np.full(last - first, np.float32(-1))
    features, values = np.empty(1024, np.int32), np.empty(1024, np.float32)
    weights = np.zeros(num_features + 1)
    for node in range(first, last):
        stored = offsets[node - first]
        if own.offsets[node] < own.offsets[node + 1]:
            rows = above.texts[above.offsets[level.parent[node]] : above.offsets[level.parent[node] + 1]]
            signs = _signs(rows, own.texts[own.offsets[node] : own.offsets[node + 1]])
            order_seed = np.uint64(seed) * _MIX + np.uint64(node)
            fit_classifier(Problem(texts, rows, signs), solver, order_seed, weights)
            biases[node - first] = weights[num_features]
            weights[num_features] = 0.0
            for row in rows:
                for place in range(texts.indptr[row], texts.indptr[row + 1]):
                    feature = texts.indices[place]
                    weight = weights[feature]
                    weights[feature] = 0.0
                    if abs(weight) >= solver.least_weight and weight != 0.0:
                        if stored == len(features):
                            features = np.concatenate((features, np.empty(stored, np.int32)))
                            values = np.concatenate((values, np.empty(stored, np.float32)))
                        features[stored], values[stored] = feature, weight
                        stored += 1
        offsets[node - first + 1] = stored
    return offsets, features[: offsets[-1]].copy(), values[: offsets[-1]].copy(), biases


@cached_njit(nogil=True)
def fit_classifier(problem: Problem, solver: Solver, seed: np.uint64, weights: np.ndarray) -> None:
    """Train one classifier.

    Args:
        problem: the binary problem.
        solver: solver settings.
        seed: seed of the order in which texts are visited.
        weights: float64 [F + 1], zeros; gets the weights, the bias last.
    """
    texts, rows, signs = problem
    bias = len(weights) - 1
    diagonal = 0.5 / solver.cost
    duals, curvature = np.zeros(len(rows)), np.empty(len(rows))
    for i in range(len(rows)):
        squares = 1.0 + diagonal
        for place in range(texts.indptr[rows[i]], texts.indptr[rows[i] + 1]):
            squares += texts.values[place] * texts.values[place]
        curvature[i] = squares
    order = np.arange(len(rows))
    num_active, largest_before = len(rows), np.inf
    for _ in range(solver.max_passes):
        seed = _shuffle(order, num_active, seed)
        largest, smallest = -np.inf, np.inf
        place_in_order = 0
        while place_in_order < num_active:
            i = order[place_in_order]
            start, stop = texts.indptr[rows[i]], texts.indptr[rows[i] + 1]
            score = weights[bias]
            for place in range(start, stop):
                score += weights[texts.indices[place]] * texts.values[place]
            gradient = signs[i] * score - 1.0 + diagonal * duals[i]
            projected = gradient
            if duals[i] == 0.0:
                if gradient > largest_before:  # probably stays at 0, so it is not visited until the others converge
                    num_active -= 1
                    order[place_in_order], order[num_active] = order[num_active], i
                    continue
                projected = min(gradient, 0.0)
            largest, smallest = max(largest, projected), min(smallest, projected)
            if abs(projected) > _STILL:
                dual = max(duals[i] - gradient / curvature[i], 0.0)
                change = (dual - duals[i]) * signs[i]
                duals[i] = dual
                weights[bias] += change
                for place in range(start, stop):
                    weights[texts.indices[place]] += change * texts.values[place]
            place_in_order += 1
        if largest - smallest <= solver.tolerance:
            if num_active == len(rows):
                return
            num_active, largest_before = len(rows), np.inf
        else:
            largest_before = largest if largest > 0 else np.inf


@cached_njit(nogil=True)
def _signs(rows: np.ndarray, true: np.ndarray) -> np.ndarray:
    """1 where a row, rising, is among `true`, rising, else -1: int8."""
    signs = np.full(len(rows), np.int8(-1))
    place = 0
    for i in range(len(rows)):
        if place < len(true) and rows[i] == true[place]:
            signs[i] = 1
            place += 1
    return signs


@cached_njit(nogil=True)
def _shuffle(order: np.ndarray, count: int, seed: np.uint64) -> np.uint64:
    """Shuffle the first `count` entries in place. Returns the next seed."""
    for i in range(count - 1, 0, -1):
        seed += _GOLDEN
        mixed = (seed ^ (seed >> np.uint64(30))) * _MIX
        other = np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(i + 1))
        order[i], order[other] = order[other], order[i]
    return seed
