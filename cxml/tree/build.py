"""From a prepared data set to its label tree, and where that tree belongs."""

from __future__ import annotations

from typing import Any

from cxml import ray_cluster, storage
from cxml.config import Config, TreeConfig, config_to_dict
from cxml.data import ShardedDataset
from cxml.tree.distributed import Progress
from cxml.tree.kmeans import build_tree
from cxml.tree.label_features import pifa
from cxml.tree.label_tree import FORMAT_VERSION, LabelTree
from cxml.tree.plan import plan_splits

# Where the tree lies and who builds it does not change it.
_NOT_SHAPING = ("directory", "engine", "num_workers")

# Below this, threads of one machine are done before the features have travelled to other machines.
_RAY_PAYS_BYTES = 256 << 20


def build(config: Config, dataset: ShardedDataset) -> LabelTree:
    """Cluster the labels of a training split as `config.tree` says, save the tree with its fingerprint, return it.

    The same tree, bit for bit, whatever the engine and the number of workers. On Ray, what a stopped build finished is
    used.

    Raises:
        ConfigError: a level has more clusters than there are labels, or Ray is asked for and not installed.
    """
    fingerprint = tree_fingerprint(config, dataset.manifest.fingerprint)
    tree = _build_on_ray(config, dataset, fingerprint) if _wants_ray(config.tree, dataset) else _build(config, dataset)
    tree.save(tree_url(config), {"fingerprint": fingerprint, "config": tree_settings(config), "seed": config.seed})
    Progress(tree_url(config)).clear()
    return tree


def tree_url(config: Config) -> str:
    """Folder or URL of the run's tree."""
    return config.tree.directory or storage.join(config.output, "tree")


def tree_settings(config: Config) -> dict[str, Any]:
    """The settings of the section `tree` that shape the tree."""
    return {key: value for key, value in config_to_dict(config)["tree"].items() if key not in _NOT_SHAPING}


def tree_fingerprint(config: Config, data_fingerprint: str) -> str:
    """What the tree depends on, as a short hash: same fingerprint, same tree."""
    return storage.fingerprint("label tree", FORMAT_VERSION, tree_settings(config), config.seed, data_fingerprint)


def _build(config: Config, dataset: ShardedDataset) -> LabelTree:
    tree = config.tree
    features = pifa(dataset.labels_csr(), dataset.features_csr(), tree.feature_top_k)
    return build_tree(
        features, tree.level_sizes, seed=config.seed, max_iterations=tree.max_iterations, tolerance=tree.tolerance
    )


def _build_on_ray(config: Config, dataset: ShardedDataset, fingerprint: str) -> LabelTree:
    from cxml.tree.distributed.build import order_labels  # noqa: PLC0415 - Ray is an optional package

    plan = plan_splits(dataset.manifest.num_labels, config.tree.level_sizes)
    order = order_labels(config, dataset, plan, tree_url(config), fingerprint)
    return LabelTree(label_order=order, offsets=plan.offsets)


def _wants_ray(tree: TreeConfig, dataset: ShardedDataset) -> bool:
    if tree.engine == "ray":
        ray_cluster.require_ray("tree.engine")
    shard_bytes = sum(shard.bytes for shard in dataset.manifest.splits["train"])
    is_large = tree.engine == "auto" and shard_bytes >= _RAY_PAYS_BYTES
    return tree.engine == "ray" or (is_large and ray_cluster.is_reachable())
