"""Build the label tree of a prepared data set, and locate it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from cxml import ray_cluster, storage, urls
from cxml.config import Config, TreeConfig, fingerprint_fields
from cxml.data import ShardedDataset, data_url, read_label_table
from cxml.tree.distributed import BuildJournal
from cxml.tree.kmeans import build_tree
from cxml.tree.label_features import pifa, weighted_sums
from cxml.tree.label_graph import LabelGraph
from cxml.tree.label_tree import FORMAT_VERSION, LabelTree
from cxml.tree.name_features import features_of_names, set_beside
from cxml.tree.shape import fit_levels, plan_splits

# Fields without an effect if another field disables them.
_WALK = ("walk_length", "walk_restart", "walk_top_k", "walk_max_frequency")
_NAMES = ("name_features", "name_weight")

# Below this, one machine finishes before the features would have been sent to others.
_MIN_RAY_BYTES = 256 << 20


def build(config: Config, dataset: ShardedDataset) -> LabelTree:
    """Cluster the labels of a training split according to `config.tree`, save the tree with its fingerprint, return it.

    The tree is bit-identical for every engine and number of workers. On Ray, an interrupted build resumes.

    Raises:
        ConfigError: a level has more clusters than there are labels, or Ray is requested but not installed.
    """
    config = fit_levels(config, dataset.manifest.num_labels)
    fingerprint = tree_fingerprint(config, dataset.manifest.fingerprint)
    if _wants_ray(config.tree, dataset):
        tree = _build_on_ray(config, dataset, fingerprint)
    else:
        tree = cluster_labels(config, features_of_labels(config, dataset))
    save_tree(config, tree, dataset.manifest.fingerprint, seed=config.seed)
    BuildJournal(tree_url(config)).clear()
    return tree


def save_tree(config: Config, tree: LabelTree, data_fingerprint: str, **facts: object) -> None:
    """Save a tree of any origin as the tree of a run; `facts` describe its origin in the manifest."""
    fingerprint = tree_fingerprint(config, data_fingerprint)
    shown = {name: urls.masked(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    tree.save(tree_url(config), {"fingerprint": fingerprint, "config": tree_settings(config), **shown})


def features_of_labels(config: Config, dataset: ShardedDataset) -> sparse.csr_matrix:
    """The features for clustering labels, CSR float32 [L, F]: PIFA, optionally smoothed over the graph, with names."""
    tree, labels = config.tree, dataset.labels_csr()
    features = pifa(labels, dataset.features_csr(), tree.feature_top_k)
    if tree.walk_length:
        graph = LabelGraph.of(labels, tree, config.seed).rows(np.arange(dataset.manifest.num_labels))
        features = weighted_sums(graph, features, tree.feature_top_k)
    if tree.name_features != "none":
        names = read_label_table(data_url(config)).words.texts
        features = set_beside(features, features_of_names(config, names, data_url(config)), tree.name_weight)
    return features


def tree_url(config: Config) -> str:
    """Folder or URL of the run's tree."""
    return config.tree.directory or storage.join(config.output, "tree")


def tree_settings(config: Config) -> dict[str, Any]:
    """The settings that determine the tree: the fields of `tree` that have an effect, and the encoder of names.

    Raises `ConfigError` if `tree.level_sizes` is `auto`.
    """
    tree = config.tree
    unused = [
        *(name for name in _WALK if not tree.walk_length),
        *(name for name in _NAMES if tree.name_features == "none"),
    ]
    with_sizes = {**fingerprint_fields(config, "tree"), "level_sizes": list(tree.sizes)}
    settings = {key: value for key, value in with_sizes.items() if key not in unused}
    return {**settings, "encoder": config.model.encoder} if tree.name_features == "encoder" else settings


def tree_fingerprint(config: Config, data_fingerprint: str) -> str:
    """A short hash of all inputs of the tree: equal fingerprints mean equal trees."""
    return storage.fingerprint("label tree", FORMAT_VERSION, tree_settings(config), config.seed, data_fingerprint)


def cluster_labels(config: Config, features: sparse.csr_matrix) -> LabelTree:
    """Cluster labels by their features, CSR float32 [L, F], according to `config.tree`, in this process."""
    tree = config.tree
    return build_tree(
        features,
        tree.sizes,
        seed=config.seed,
        max_iterations=tree.max_iterations,
        tolerance=tree.tolerance,
    )


def _build_on_ray(config: Config, dataset: ShardedDataset, fingerprint: str) -> LabelTree:
    from cxml.tree.distributed.build import order_labels  # noqa: PLC0415 - Ray is an optional package

    plan = plan_splits(dataset.manifest.num_labels, config.tree.sizes)
    order = order_labels(config, dataset, plan, tree_url(config), fingerprint)
    return LabelTree(label_order=order, offsets=plan.offsets)


def _wants_ray(tree: TreeConfig, dataset: ShardedDataset) -> bool:
    if tree.engine == "ray":
        ray_cluster.require_ray("tree.engine")
    shard_bytes = sum(shard.bytes for shard in dataset.manifest.splits["train"])
    is_large = tree.engine == "auto" and shard_bytes >= _MIN_RAY_BYTES
    return tree.engine == "ray" or (is_large and ray_cluster.is_reachable())
