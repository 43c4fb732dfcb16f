"""Imported label trees (PECOS chains, pickled clusters) become the run's tree; no code in a file is executed.

Oracles: the clusters that the files were written from, and a hostile pickle that Python's own `pickle` executes.
"""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import sparse
from support.datasets import random_rows, write_dataset

from cxml.commands.data import import_tree as import_command
from cxml.config import config_from_dict, config_to_dict
from cxml.errors import ConfigError, DataError
from cxml.formats.plain_pickle import load_plain
from cxml.preparation.tree_import import import_tree
from cxml.tree import LabelTree, tree_fingerprint, tree_url

FINE = np.array([3, 0, 1, 2, 0, 3, 1, 2, 2])  # cluster of each label
COARSE = np.array([1, 0, 0, 1, 0, 1, 0, 1, 1])  # 0 and 1 inside 0, 2 and 3 inside 1


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    labels = sparse.csr_matrix(np.eye(9))
    data = write_dataset(tmp_path / "set", {"train": (labels, random_rows(rng, 9, 20, 5))})
    sections = {"source": {"kind": "icd10cm"}, "directory": data}
    tree = {"level_sizes": [2, 4]}
    return config_from_dict({"auto": [], "output": str(tmp_path / "run"), "data": sections, "tree": tree})


def one_hot(of_child, num_parents):
    ones = np.ones(len(of_child), np.float32)
    return sparse.csc_matrix((ones, (np.arange(len(of_child)), of_child)), (len(of_child), num_parents))


@pytest.fixture
def chain(tmp_path):
    """As PECOS writes it: children x parents, the root's children first."""
    folder = tmp_path / "chain"
    folder.mkdir()
    for i, matrix in enumerate([one_hot([0, 0], 1), one_hot([0, 0, 1, 1], 2), one_hot(FINE, 4)]):
        sparse.save_npz(folder / f"C{i}.npz", matrix, compressed=False)
    return folder


def clusters_of(level):
    return [np.flatnonzero(level == cluster) for cluster in range(level.max() + 1)]


def check(config):
    tree = LabelTree.load(tree_url(config), fingerprint=tree_fingerprint(config, "0123"))
    assert tree.level_sizes == (2, 4, 9)
    assert tree.cluster_of_label(0).tolist() == COARSE.tolist()
    assert tree.cluster_of_label(1).tolist() == FINE.tolist()


def test_a_pecos_chain_becomes_the_tree_of_the_run(config, chain, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    assert import_command.main(["--config", str(file), "--source", str(chain)]) == 0
    assert capsys.readouterr().out.strip() == "Label tree of 2 > 4 > 9 nodes, the labels last"
    check(config)
    assert import_command.main(["--config", str(file), "--source", str(chain)]) == 2
    assert "the folder already contains a tree" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickled_clusters_of_arrays_and_lists_become_the_tree_of_the_run(config, tmp_path, protocol):
    levels = [clusters_of(COARSE), [cluster.tolist() for cluster in clusters_of(FINE)]]
    if protocol == 3:  # small integers of NumPy's, and arrays of arrays
        ragged = np.empty(4, object)
        ragged[:] = [cluster.astype(np.int32) for cluster in clusters_of(FINE)]
        levels = [[list(cluster) for cluster in clusters_of(COARSE)], ragged]
    (tmp_path / "clusters.pkl").write_bytes(pickle.dumps(levels, protocol))
    import_tree(config, str(tmp_path / "clusters.pkl"))
    check(config)


class Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1.5], "holds a float"),
        ({"a": [1]}, "holds a dict"),
        ([np.array([0.5])], "not integers"),
        ([np.array([1, "a"], object)], "holds a str"),
        (np.random.default_rng(0), "which is not allowed"),
    ],
)
def test_all_but_lists_and_arrays_of_integers_is_refused(value, problem):
    with pytest.raises(DataError, match=rf"file: cannot be read as plain.*{problem}"):
        load_plain(pickle.dumps(value), "file")


def test_nothing_that_a_file_asks_for_is_run(tmp_path):
    sign = tmp_path / "sign"
    content = pickle.dumps([Hostile(sign)])
    with pytest.raises(DataError, match=r"calls posix\.system, which is not allowed"):
        load_plain(content, "file")
    assert not sign.exists()
    pickle.loads(content)  # the file is what it claims to be
    assert sign.exists()


def test_arrays_that_lie_about_their_shape_and_broken_files_are_refused():
    content = pickle.dumps(np.arange(6), 4)
    lying = content.replace(b"K\x06\x85", b"K\x07\x85")
    assert lying != content
    for broken in (lying, content[:-20], b"", b"no pickle"):
        with pytest.raises(DataError, match="cannot be read as plain"):
            load_plain(broken, "file")


def test_a_chain_without_the_wanted_level_is_refused_with_its_levels(config, chain):
    import dataclasses

    other = dataclasses.replace(config, tree=dataclasses.replace(config.tree, level_sizes=(3,)))
    with pytest.raises(ConfigError, match=r"tree\.level_sizes.*no level of 3 clusters. Its levels have 1, 2, 4"):
        import_tree(other, str(chain))
    assert not Path(tree_url(config)).exists()


def test_a_missing_source_is_refused_with_the_option_that_names_it(config, tmp_path):
    with pytest.raises(ConfigError, match="--source"):
        import_tree(config, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        ([[[0, 1], [2]]], "3 labels, but the data set has 9"),
        ([clusters_of(COARSE), [[0, 1], [2, 3], [4, 5], [6, 7, 8]]], "belongs to two clusters"),
        ([[[0, 1], [1, 2]]], "level 0 does not contain each label once"),
        ([clusters_of(COARSE), [[0]]], "different numbers of labels"),
    ],
)
def test_clusters_that_make_no_tree_of_the_labels_are_refused(config, tmp_path, levels, problem):
    (tmp_path / "clusters.pkl").write_bytes(pickle.dumps(levels))
    with pytest.raises(DataError, match=problem):
        import_tree(config, str(tmp_path / "clusters.pkl"))
    assert not Path(tree_url(config)).exists()


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (one_hot([0, 0, 1, 1, 1], 2), r"C2\.npz: has 4 parents, but the level above has 5 clusters"),
        (sparse.csc_matrix(np.ones((4, 2))), r"C1\.npz: a cluster or label does not have exactly one parent"),
    ],
)
def test_a_chain_whose_matrices_do_not_fit_is_refused_by_file(config, chain, matrix, problem):
    sparse.save_npz(chain / "C1.npz", matrix)
    with pytest.raises(DataError, match=problem):
        import_tree(config, str(chain))
    assert not Path(tree_url(config)).exists()
