import dataclasses

from cxml.config import Config, DataConfig, ModelConfig, SourceConfig, TreeConfig
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
