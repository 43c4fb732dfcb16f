"""The levels of a tree, once the number of labels is known."""

from __future__ import annotations

import dataclasses

from cxml.config import Config
from cxml.tree.plan import check_level_sizes

_DEFAULT_CLUSTERS = 256


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
