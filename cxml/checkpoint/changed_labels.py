"""Adapt a trained model to a changed label set: kept labels keep their rows and clusters, new ones join a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cxml.model.heads import INITIAL_BIAS
from cxml.tree import LabelTree

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Relabelling:
    """A tree over changed labels, with its mapping to the old tree.

    Attributes:
        tree: the tree over the new labels.
        kept_nodes: per cluster level, int64 [n_l]: the node of the old tree for each node.
        old_positions: int64 [L], the old position of the label at each new position; -1 for a new label.
    """

    tree: LabelTree
    kept_nodes: tuple[np.ndarray, ...]
    old_positions: np.ndarray

    def cluster_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encoder and cluster levels, without the rows of empty clusters."""
        changed = dict(weights)
        for level, nodes in enumerate(self.kept_nodes):
            for name in (f"cluster_heads.{level}.weight", f"cluster_heads.{level}.bias"):
                changed[name] = weights[name][torch.from_numpy(nodes)]
        return changed

    def label_rows(self, blocks: Iterable[dict[str, Tensor]], width: int) -> Iterator[dict[str, Tensor]]:
        """Yield the rows of the kept labels at their new positions, then initial rows for new labels."""
        num_old = int(self.old_positions.max(initial=-1)) + 1
        new_position = np.full(num_old, -1, np.int64)
        kept = np.flatnonzero(self.old_positions >= 0)
        new_position[self.old_positions[kept]] = kept
        for block in blocks:
            old = block["positions"].numpy()
            places = np.where(old < num_old, new_position[np.minimum(old, num_old - 1)], -1)
            stays = torch.from_numpy(places >= 0)
            if stays.any():
                positions = torch.from_numpy(places)[stays]
                yield {"positions": positions, "weight": block["weight"][stays], "bias": block["bias"][stays]}
        added = torch.from_numpy(np.flatnonzero(self.old_positions < 0))
        for positions in added.split(_ROWS_AT_ONCE) if len(added) else ():
            weight, bias = torch.zeros(len(positions), width), torch.full((len(positions),), INITIAL_BIAS)
            yield {"positions": positions.clone(), "weight": weight, "bias": bias}


def relabel_tree(old: LabelTree, old_ids: np.ndarray, features: sparse.csr_matrix) -> Relabelling:
    """Adapt a tree to a changed label set.

    Kept labels stay in their clusters. A new label joins the leaf cluster whose mean feature has the largest cosine
    with its own, or the smallest leaf if it shares no feature with any. Empty clusters are removed.

    Args:
        old: the tree over L_old labels.
        old_ids: int64 [L], the old id of each label; -1 for a new one. At least one label is kept.
        features: features of the labels, CSR [L, F].
    """
    stays = old_ids >= 0
    clusters: list[np.ndarray] = []
    if old.offsets:
        leaf_of = np.full(len(old_ids), -1, np.int64)
        leaf_of[stays] = old.cluster_of_label(len(old.offsets) - 1)[old_ids[stays]]
        leaf_of[~stays] = _closest_leaves(leaf_of, features, old.level_sizes[-2])
        clusters = [above[leaf_of] for above in _ancestors(old)]
    tree = LabelTree.from_clusters(clusters, len(old_ids))
    position_of = old.label_positions()
    ids = old_ids[tree.label_order]
    old_positions = np.where(ids >= 0, position_of[np.maximum(ids, 0)], -1).astype(np.int64)
    return Relabelling(tree, tuple(np.unique(level) for level in clusters), old_positions)


def _ancestors(tree: LabelTree) -> list[np.ndarray]:
    """Per cluster level, coarse to fine, the cluster of each leaf, int64 [leaves]."""
    found = [np.arange(tree.level_sizes[-2])]
    for offsets in reversed(tree.offsets[:-1]):
        found.append(np.searchsorted(offsets, found[-1], side="right") - 1)
    return found[::-1]


def _closest_leaves(leaf_of: np.ndarray, features: sparse.csr_matrix, num_leaves: int) -> np.ndarray:
    """For each label without a leaf (-1), the leaf with the closest labels."""
    members = np.flatnonzero(leaf_of >= 0)
    ones = np.ones(len(members), np.float32)
    lies_in = sparse.csr_matrix((ones, (leaf_of[members], members)), (num_leaves, len(leaf_of)))
    sums = sparse.csr_matrix(lies_in @ features)
    norms = np.sqrt(np.asarray(sums.power(2).sum(1)).ravel())
    centres = sparse.csr_matrix(sparse.diags(1 / np.maximum(norms, 1e-12)) @ sums)
    counts = np.bincount(leaf_of[members], minlength=num_leaves)
    smallest = int(np.flatnonzero(counts)[np.argmin(counts[counts > 0])])
    found = []
    wanted = np.flatnonzero(leaf_of < 0)
    for start in range(0, len(wanted), _ROWS_AT_ONCE):
        cosines = sparse.csr_matrix(features[wanted[start : start + _ROWS_AT_ONCE]] @ centres.T)
        best = np.asarray(cosines.argmax(axis=1)).ravel()
        has_any = np.diff(cosines.indptr) > 0
        found.append(np.where(has_any, best, smallest))
    return np.concatenate(found) if found else np.zeros(0, np.int64)
