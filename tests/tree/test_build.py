import dataclasses

from cxml.config import Config, DataConfig, SourceConfig, TreeConfig
from cxml.tree import tree_fingerprint, tree_url


def config(**tree) -> Config:
    data = DataConfig(source=SourceConfig(kind="icd10cm"))
    return Config(output="runs/one", data=data, tree=TreeConfig(**tree))


def test_the_tree_lies_in_the_run_or_where_the_config_says():
    assert tree_url(config()) == "runs/one/tree"
    assert tree_url(config(directory="s3://bucket/shared-tree")) == "s3://bucket/shared-tree"


def test_the_fingerprint_follows_all_that_the_tree_depends_on_and_nothing_else():
    base = tree_fingerprint(config(), "data")
    assert tree_fingerprint(config(directory="elsewhere"), "data") == base
    assert tree_fingerprint(config(engine="ray", num_workers=3), "data") == base
    assert tree_fingerprint(dataclasses.replace(config(), output="runs/two"), "data") == base
    others = [
        tree_fingerprint(config(), "other data"),
        tree_fingerprint(dataclasses.replace(config(), seed=1), "data"),
        tree_fingerprint(config(level_sizes=(16,)), "data"),
        tree_fingerprint(config(feature_top_k=7), "data"),
        tree_fingerprint(config(max_iterations=3), "data"),
        tree_fingerprint(config(tolerance=0.1), "data"),
    ]
    assert len({base, *others}) == len(others) + 1
