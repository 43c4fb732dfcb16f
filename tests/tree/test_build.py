"""The place, engine and fingerprint of the label tree follow from the config.

Oracle: a hand-written list of the fields that change the tree and of those that do not.
"""

import dataclasses
import sys

import numpy as np
from scipy import sparse
from support.datasets import write_dataset

from cxml.config import Config, DataConfig, ModelConfig, SourceConfig, TreeConfig
from cxml.data import ShardedDataset
from cxml.tree import tree_fingerprint, tree_url


def config(level_sizes=(256,), **tree) -> Config:
    data = DataConfig(source=SourceConfig(kind="icd10cm"))
    return Config(output="runs/one", data=data, tree=TreeConfig(level_sizes=level_sizes, **tree))


def test_the_tree_lies_in_the_run_or_where_the_config_says():
    assert tree_url(config()) == "runs/one/tree"
    assert tree_url(config(directory="s3://bucket/shared-tree")) == "s3://bucket/shared-tree"


def test_auto_takes_ray_for_a_large_data_set_where_a_cluster_is_named(tmp_path, monkeypatch):
    module = sys.modules["cxml.tree.build"]  # the package's function of that name hides it
    data = write_dataset(tmp_path / "set", {"train": (sparse.csr_matrix(np.eye(3)), sparse.csr_matrix(np.eye(3, 5)))})
    dataset = ShardedDataset(data, "train")
    chosen = {}
    for is_large in (True, False):
        monkeypatch.setattr(module, "_MIN_RAY_BYTES", 1 if is_large else 1 << 30)
        for address in ("10.0.0.1:6379", ""):
            monkeypatch.setenv("RAY_ADDRESS", address)
            for engine in ("auto", "local", "ray"):
                chosen[is_large, bool(address), engine] = module._wants_ray(config(engine=engine).tree, dataset)
    expected = {key: key[2] == "ray" or key == (True, True, "auto") for key in chosen}
    assert chosen == expected


def test_the_fingerprint_follows_all_that_the_tree_depends_on_and_nothing_else():
    base = tree_fingerprint(config(), "data")
    assert tree_fingerprint(config(directory="elsewhere"), "data") == base
    assert tree_fingerprint(config(engine="ray", num_workers=3), "data") == base
    assert tree_fingerprint(config(walk_top_k=3, name_weight=2), "data") == base  # without walks and names
    assert tree_fingerprint(dataclasses.replace(config(), output="runs/two"), "data") == base
    other_encoder = dataclasses.replace(config(name_features="encoder"), model=ModelConfig(encoder="other"))
    others = [
        tree_fingerprint(config(), "other data"),
        tree_fingerprint(dataclasses.replace(config(), seed=1), "data"),
        tree_fingerprint(config(level_sizes=(16,)), "data"),
        tree_fingerprint(config(feature_top_k=7), "data"),
        tree_fingerprint(config(max_iterations=3), "data"),
        tree_fingerprint(config(tolerance=0.1), "data"),
        tree_fingerprint(config(walk_length=400), "data"),
        tree_fingerprint(config(walk_length=400, walk_top_k=3), "data"),
        tree_fingerprint(config(name_features="tfidf"), "data"),
        tree_fingerprint(config(name_features="encoder"), "data"),
        tree_fingerprint(other_encoder, "data"),
    ]
    assert len({base, *others}) == len(others) + 1
