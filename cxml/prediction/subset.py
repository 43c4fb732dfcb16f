"""Restrict a model to some of its labels: the tree without empty clusters, and the remaining rows."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from cxml.data import lengths_to_offsets
from cxml.evidence import LabelSubset
from cxml.model import CascadeXML, LevelHead
from cxml.parallel import RowLayout, leaf_offsets_of
from cxml.prediction.parts import Parts
from cxml.tree import LabelTree


def restrict(parts: Parts, labels: np.ndarray) -> Parts:
    """A model restricted to `labels`.

    Args:
        parts: all label rows in one process.
        labels: sorted int64 [n], numbered as in `parts.tree`.

    Returns:
        Parts that share the encoder; label i is the original label `labels[i]`.
    """
    tree = parts.tree
    positions = np.sort(tree.label_positions()[labels].astype(np.int64))
    kept, offsets = _kept_nodes(tree, positions)
    smaller = LabelTree(np.searchsorted(labels, tree.label_order[positions]).astype(np.int32), offsets)
    layout = RowLayout.round_robin(leaf_offsets_of(offsets, len(labels)), 0, 1)
    rows = parts.rows.take(positions)
    evidence = parts.evidence
    if evidence is not None:
        evidence = evidence.restricted(LabelSubset(smaller, [*kept, positions], labels))
    return replace(
        parts, model=_smaller_model(parts.model, smaller, kept), tree=smaller, layout=layout, rows=rows, mapped=None,
        evidence=evidence,
    )  # fmt: skip


def renumber_labels(parts: Parts, label_ids: np.ndarray) -> Parts:
    """The parts of a restricted model with the facts of its own labels only, numbered as in its tree.

    Args:
        parts: the result of `restrict`, or a whole model.
        label_ids: id of each label of `parts.tree` in the names, titles, weights and decisions, sorted int64 [L].
    """
    ids, weights = label_ids.tolist(), parts.label_weights
    return replace(
        parts,
        names=[parts.names[label] for label in ids],
        titles=None if parts.titles is None else [parts.titles[label] for label in ids],
        label_weights=None if weights is None else weights[label_ids],
        decisions=parts.decisions.renumbered(label_ids),
    )


def _kept_nodes(tree: LabelTree, positions: np.ndarray) -> tuple[list[np.ndarray], tuple[np.ndarray, ...]]:
    """Nodes of each cluster level with a kept label position, and the children ranges of kept nodes."""
    kept, offsets = [], []
    below = positions
    for children in reversed(tree.offsets):
        parents = np.searchsorted(children, below, side="right") - 1
        nodes, counts = np.unique(parents, return_counts=True)
        kept.insert(0, nodes)
        offsets.insert(0, lengths_to_offsets(counts))
        below = nodes
    return kept, tuple(offsets)


def _smaller_model(model: CascadeXML, tree: LabelTree, kept: list[np.ndarray]) -> CascadeXML:
    """The model over the smaller tree: the same encoder, and the kept rows of the clusters' classifiers."""
    smaller = CascadeXML(
        model.encoder, tree, label_head=copy.copy(model.label_head), shortlist_sizes=model.shortlist_sizes,
        level_weights=model.level_weights, scoring=model.scoring,
    )  # fmt: skip
    for level, nodes in enumerate(kept):
        head = model.cluster_heads[level]
        assert isinstance(head, LevelHead), "built so"
        rows = torch.from_numpy(nodes).to(head.weight.device)
        fewer = LevelHead(0, head.weight.shape[1])
        fewer.weight, fewer.bias = nn.Parameter(head.weight[rows]), nn.Parameter(head.bias[rows])
        smaller.cluster_heads[level] = fewer
    return smaller.to(model.get_buffer("label_order").device)
