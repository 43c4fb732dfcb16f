"""The tree report of a real ICD-10-CM chapter: its statistics and the printed tables.

Oracles: inequalities that hold for nested clusters, and the names of labels in the tree.
"""

import numpy as np
import pytest

from cxml.commands.data import tree_report
from cxml.config import config_from_dict
from cxml.data import ShardedDataset, data_url, read_label_table
from cxml.inspection.tree_statistics import collect_tree_statistics
from cxml.preparation import prepare
from cxml.tree import build, tree_url


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    data = {"source": {"kind": "icd10cm", "chapters": ["3"]}, "max_length": 24}
    config = config_from_dict({"auto": [], "output": str(output), "data": data, "tree": {"level_sizes": [4, 16]}})
    prepare(config)
    return config, build(config, ShardedDataset(data_url(config), "train"))


def test_finer_clusters_are_more_alike_and_harder_to_reach(built):
    config, tree = built
    coarse, fine = collect_tree_statistics(tree, data_url(config), top_k=2, max_texts=10_000)
    assert len(coarse.labels) == 4
    assert fine.labels.sum() == tree.num_labels
    assert np.ptp(fine.labels) <= 1
    assert coarse.children.tolist() == [4, 4, 4, 4]
    assert 0 < coarse.cosine < fine.cosine < 1
    assert 1 > coarse.cluster_recall > fine.cluster_recall > 0.3


def test_the_report_shows_levels_and_clusters_by_name(built, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config, tree = built
    assert tree_report.main([tree_url(config), "--data", data_url(config), "--examples", "1"]) == 0
    text = capsys.readouterr().out
    names = read_label_table(data_url(config)).names
    bounds = tree.label_offsets(1)
    node = 7  # the middle one of 16
    assert names[tree.label_order[bounds[node]]].split()[0] in text
    for words in ("4 > 16", "mean cosine", "test labels in 10 clusters", "100.0%", "Examples"):
        assert words in text


def test_without_a_data_set_the_report_has_sizes_and_no_cosines(built, capsys):
    config, _ = built
    assert tree_report.main([tree_url(config)]) == 0
    text = capsys.readouterr().out
    assert "4 > 16" in text
    assert "mean cosine" not in text


def test_the_data_set_of_another_tree_is_refused(built, capsys, wordnet_slice, tmp_path):
    config, _ = built
    other = config_from_dict({"auto": [], "output": str(tmp_path), "data": {"source": {"path": str(wordnet_slice)}}})
    prepare(other)
    assert tree_report.main([tree_url(config), "--data", data_url(other)]) == 2
    assert "Give the data set that the tree was built from" in capsys.readouterr().err
