"""From a prepared data set to its label tree, and where that tree belongs."""

from __future__ import annotations

import dataclasses

from cxml import storage
from cxml.config import Config
from cxml.data import ShardedDataset
from cxml.tree.kmeans import build_tree
from cxml.tree.label_features import pifa
from cxml.tree.label_tree import FORMAT_VERSION, LabelTree

# Where the tree lies and who builds it does not change it.
_NOT_SHAPING = ("directory", "engine", "num_workers")


def build(config: Config, dataset: ShardedDataset) -> LabelTree:
    """Cluster the labels of a training split as `config.tree` says.

    Raises:
        ConfigError: a level has more clusters than there are labels.
    """
    tree = config.tree
    features = pifa(dataset.labels_csr(), dataset.features_csr(), tree.feature_top_k)
    return build_tree(
        features, tree.level_sizes, seed=config.seed, max_iterations=tree.max_iterations, tolerance=tree.tolerance
    )


def tree_url(config: Config) -> str:
    """Folder or URL of the run's tree."""
    return config.tree.directory or storage.join(config.output, "tree")


def tree_fingerprint(config: Config, data_fingerprint: str) -> str:
    """What the tree depends on, as a short hash: same fingerprint, same tree."""
    settings = {key: value for key, value in dataclasses.asdict(config.tree).items() if key not in _NOT_SHAPING}
    return storage.fingerprint("label tree", FORMAT_VERSION, settings, config.seed, data_fingerprint)
