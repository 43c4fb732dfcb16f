"""The levels of a tree, once the number of labels is known."""

from __future__ import annotations

import dataclasses
import math

from cxml.config import Config
from cxml.tree.shape import check_level_sizes

_DEFAULT_CLUSTERS = 256
_LABELS_PER_LEAF = 7  # the paper's leaves of its largest trees hold 8 to 10
_RATIO = 8  # of a level's clusters to those of the level above, as in the paper
_FEWEST_LEAVES = 16  # below, a text's clusters are found as soon as its labels
_TOP, _MOST_TOP, _USUAL_DEPTH = 1024, 8192, 3  # the paper's coarsest levels have 2^10 or 2^13 clusters


def fit_levels(config: Config, num_labels: int) -> Config:
    """`config` with `tree.level_sizes` as numbers: `auto` is replaced, and given sizes are checked.

    Raises:
        ConfigError: a level has more clusters than there are labels, or a field of `model` has a value per level and
            `auto` gives another number of levels.
    """
    if config.tree.level_sizes != "auto":
        check_level_sizes(num_labels, config.tree.level_sizes)
        return config
    sizes = (_DEFAULT_CLUSTERS,) if num_labels >= _DEFAULT_CLUSTERS else ()
    return dataclasses.replace(config, tree=dataclasses.replace(config.tree, level_sizes=sizes))


def level_sizes_for(num_labels: int, num_levels: int | None = None) -> tuple[int, ...]:
    """Sizes of a tree over so many labels, after the paper's: powers of two, each level eight times the one above.

    The leaves hold about 7 labels. Levels are set above them until the coarsest has at most 1,024 clusters, or at most
    8,192 where there are three. Fewer labels than about 85 get no tree.

    Args:
        num_labels: L, at least 1.
        num_levels: levels, labels included, that the tree must have; None leaves that open.

    Returns:
        Clusters of each level, coarse to fine, with at most L in each. With `num_levels` above what L labels allow,
        the sizes do not fit, which `fit_levels` refuses.
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
