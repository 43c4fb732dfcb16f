"""Relabelled models: kept labels keep their rows and clusters, new labels join the nearest cluster, empty clusters go.

Oracles: rows that hold their own old positions (hypothesis draws the label changes), and hand-computed cases.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from cxml.checkpoint import relabel_tree
from cxml.tree import LabelTree

OLD = LabelTree.from_clusters([np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 2, 3, 3, 1])], 6)


def rows_of(changed, num_old):
    """Every label row of a relabelled model whose old rows hold their old positions."""
    old = {
        "positions": torch.arange(num_old),
        "weight": torch.arange(num_old).float()[:, None].expand(-1, 2) + 1,
        "bias": torch.arange(num_old).float(),
    }
    blocks = [{name: values[part] for name, values in old.items()} for part in (slice(2, None), slice(2))]
    return list(changed.label_rows(blocks, 2))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=12), st.integers(0, 1000))
def test_labels_that_stay_keep_rows_and_clusters_and_every_label_has_one_row(drawn, seed):
    kept = list(dict.fromkeys(i for i in drawn if i >= 0)) or [0]
    old_ids = np.array(kept + [-1] * drawn.count(-1))
    rng = np.random.default_rng(seed)
    old_ids = rng.permutation(old_ids)
    features = sparse.random(len(old_ids), 5, 0.6, format="csr", dtype=np.float32, rng=rng)
    changed = relabel_tree(OLD, old_ids, features)
    position_of = {int(label): p for p, label in enumerate(changed.tree.label_order)}
    rows = rows_of(changed, 6)
    places = torch.cat([block["positions"] for block in rows])
    assert sorted(places.tolist()) == list(range(len(old_ids)))
    weight = torch.cat([block["weight"] for block in rows])[torch.argsort(places)]
    bias = torch.cat([block["bias"] for block in rows])[torch.argsort(places)]
    for new, old in enumerate(old_ids):
        place = position_of[new]
        if old >= 0:
            assert bias[place] == OLD.label_positions()[old]
            assert (weight[place] == OLD.label_positions()[old] + 1).all()
            for level in range(2):
                cluster = changed.tree.cluster_of_label(level)[new]
                assert changed.kept_nodes[level][cluster] == OLD.cluster_of_label(level)[old]
        else:
            assert bias[place] == -4
            assert (weight[place] == 0).all()
    assert changed.tree.level_sizes[:2] == tuple(len(nodes) for nodes in changed.kept_nodes)


def test_a_new_label_joins_the_cluster_it_is_closest_to_and_one_without_features_the_smallest():
    features = np.zeros((8, 4), np.float32)
    features[[0, 1, 5], 0] = 1
    features[2, 1] = 1
    features[[3, 4], 2] = 1
    features[6] = [0, 0, 0.9, 0.1]
    changed = relabel_tree(OLD, np.array([0, 1, 2, 3, 4, 5, -1, -1]), sparse.csr_matrix(features))
    leaves = changed.tree.cluster_of_label(1)
    assert leaves[6] == leaves[3] == leaves[4]
    assert leaves[7] == leaves[0]  # alone in its leaf, and the first such


def test_clusters_that_nobody_is_left_in_go_with_their_rows():
    changed = relabel_tree(OLD, np.array([5, 4]), sparse.csr_matrix((2, 3), dtype=np.float32))
    weights = {
        f"cluster_heads.{level}.{kind}": torch.arange(n) for level, n in ((0, 2), (1, 4)) for kind in ("weight", "bias")
    }
    kept = changed.cluster_weights(weights | {"encoder.a": torch.ones(3)})
    assert kept["cluster_heads.0.weight"].tolist() == [0, 1]
    assert kept["cluster_heads.1.bias"].tolist() == [1, 3]
    assert kept["encoder.a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("ids", [[2, 0], [1, -1, 2]])
def test_a_tree_without_clusters_stays_one(ids):
    flat = LabelTree(np.array([2, 0, 1], np.int32), ())
    changed = relabel_tree(flat, np.array(ids), sparse.csr_matrix((len(ids), 3), dtype=np.float32))
    assert changed.tree.level_sizes == (len(ids),)
    assert changed.old_positions.tolist() == [flat.label_positions()[i] if i >= 0 else -1 for i in ids]
