"""The shape of a balanced tree: the levels, and the children, labels and two-way splits of every node.

`fit_levels` sets the sizes of the levels for a number of labels, and `plan_splits` plans their splits. Sizes depend
only on the number of labels and the level sizes, not on the features:

- Children are assigned one at a time to the node whose clusters have the most labels (ties: the node with more labels,
  then the first).
- A node's labels are divided among its children so that siblings differ by at most one label.

A node therefore never has more children than labels. If each level size divides the next, all clusters of a level
differ by at most one label. Two-way splits then separate a node's children: the first ceil(c / 2) of c children, with
their labels, go left.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxml.config import Config
from cxml.errors import ConfigError

_DEFAULT_CLUSTERS = 256
_LABELS_PER_LEAF = 7  # the leaves of the paper's largest trees have 8 to 10
_RATIO = 8  # of the numbers of clusters of adjacent levels, as in the paper
_FEWEST_LEAVES = 16  # with fewer, scoring clusters costs as much as scoring labels
_TOP, _MOST_TOP, _USUAL_DEPTH = 1024, 8192, 3  # the paper's coarsest levels have 2^10 or 2^13 clusters


def fit_levels(config: Config, num_labels: int) -> Config:
    """`config` with numbers for `tree.level_sizes`: replaces `auto`, and checks given sizes.

    Raises:
        ConfigError: a level has more clusters than there are labels, or a field of `model` has one value per level and
            `auto` chooses another number of levels.
    """
    if config.tree.level_sizes != "auto":
        check_level_sizes(num_labels, config.tree.level_sizes)
        return config
    sizes = (_DEFAULT_CLUSTERS,) if num_labels >= _DEFAULT_CLUSTERS else ()
    return dataclasses.replace(config, tree=dataclasses.replace(config.tree, level_sizes=sizes))


def level_sizes_for(num_labels: int, num_levels: int | None = None) -> tuple[int, ...]:
    """Level sizes for a number of labels, as in the paper: powers of two, each level eight times the one above.

    The leaves have about 7 labels. Levels are added above them until the coarsest has at most 1,024 clusters, or at
    most 8,192 with three levels. Fewer labels than about 85 get no clusters.

    Args:
        num_labels: L, at least 1.
        num_levels: required number of levels, labels included; None for any.

    Returns:
        Clusters of each level, coarse to fine, at most L. If L labels do not allow `num_levels`, the sizes do not fit
        and `fit_levels` raises an error.
    """
    leaves = 2 ** max(0, round(math.log2(num_labels / _LABELS_PER_LEAF)))
    if num_levels is None:
        sizes = [leaves] if leaves >= _FEWEST_LEAVES else []
        while sizes and sizes[0] > (_TOP if len(sizes) < _USUAL_DEPTH else _MOST_TOP):
            sizes.insert(0, sizes[0] // _RATIO)
        return tuple(sizes)
    depth = num_levels - 1
    leaves = max(leaves, 2 ** (depth - 1)) if depth else leaves
    ratio = min(_RATIO, 2 ** int(math.log2(leaves) / max(depth - 1, 1)))
    return tuple(leaves // ratio ** (depth - 1 - level) for level in range(depth))


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """The levels' offsets and the two-way splits of the nodes."""

    offsets: tuple[np.ndarray, ...]
    """Per cluster level, int64 [n_l + 1]: the children of node i are offsets[i]..offsets[i + 1] of the next level."""
    splits: np.ndarray
    """int64 [n, 3]: positions (start, middle, end) of each split, a parent before its left part before its right."""


def plan_splits(num_labels: int, level_sizes: Sequence[int]) -> SplitPlan:
    """Plan a tree of `level_sizes` clusters (coarse to fine) over `num_labels` labels.

    Raises:
        ConfigError: a level has more clusters than there are labels, or no more than the level above it.
    """
    check_level_sizes(num_labels, level_sizes)
    offsets: list[np.ndarray] = []
    splits = [np.empty((0, 3), dtype=np.int64)]
    bounds = np.array([0, num_labels], dtype=np.int64)
    for size in level_sizes:
        labels_per_node = np.diff(bounds)
        children = distribute_children(labels_per_node, size)
        offsets.append(np.concatenate([[0], np.cumsum(children)]))
        bounds = _share_labels(bounds, children, offsets[-1])
        splits.extend(_halvings(offsets[-1], bounds))
    # The root's children are known; the children of the finest level are the labels.
    offsets = [*offsets[1:], bounds] if level_sizes else []
    table = np.concatenate(splits)
    return SplitPlan(offsets=tuple(offsets), splits=table[np.lexsort((-table[:, 2], table[:, 0]))])


def distribute_children(labels_per_node: np.ndarray, total: int) -> np.ndarray:
    """Distribute `total` children over nodes, int64 [n], minimising the largest cluster below any node.

    Every node starts with one child. Each further child goes to the node with the most labels per child (ties: the
    node with more labels, then the first). `total` is between the numbers of nodes and labels, so no node gets more
    children than labels.
    """
    children = np.ones(len(labels_per_node), dtype=np.int64)
    # Nodes of equal size are processed together, and there are few different sizes.
    queue = [(-float(size), -int(size), 1) for size in np.unique(labels_per_node)]
    heapq.heapify(queue)
    left = total - len(children)
    while left > 0:
        _, negative_size, count = heapq.heappop(queue)
        takers = np.flatnonzero(labels_per_node == -negative_size)[:left]
        children[takers] += 1
        left -= len(takers)
        heapq.heappush(queue, (negative_size / (count + 1), negative_size, count + 1))
    return children


def check_level_sizes(num_labels: int, level_sizes: Sequence[int]) -> None:
    """Raise `ConfigError` if a level has more clusters than there are labels, or no more than the level above it."""
    field = "tree.level_sizes"
    for above, size in zip([0, *level_sizes], level_sizes, strict=False):
        if size <= above:
            raise ConfigError(
                field, list(level_sizes), "sizes must increase from coarse to fine", "Write e.g. [256, 2048]."
            )
        if size > num_labels:
            problem = f"{size} clusters are more than the {num_labels} labels"
            remedy = f"Use sizes of at most {num_labels}, or [] to score all labels without a tree."
            raise ConfigError(field, list(level_sizes), problem, remedy)


def _share_labels(bounds: np.ndarray, children: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Bounds of the children in label positions, int64 [sum(children) + 1]."""
    node = np.repeat(np.arange(len(children)), children)
    turn = np.arange(offsets[-1]) - offsets[node]
    least, extra = np.divmod(np.diff(bounds), children)
    starts = bounds[node] + turn * least[node] + np.minimum(turn, extra[node])
    return np.append(starts, bounds[-1])


def _halvings(offsets: np.ndarray, bounds: np.ndarray) -> list[np.ndarray]:
    """The rounds of two-way splits that separate each node's children, [n, 3] each."""
    rounds = []
    low, high = offsets[:-1], offsets[1:]
    while True:
        low, high = low[high - low > 1], high[high - low > 1]
        if not len(low):
            return rounds
        middle = low + (high - low + 1) // 2
        rounds.append(np.stack([bounds[low], bounds[middle], bounds[high]], axis=1))
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
