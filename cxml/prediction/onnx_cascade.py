"""The prediction of `CascadeXML` from an encoder's features as nodes of an ONNX graph.

features -> level 0 scores all of its clusters -> its best clusters' children -> ... -> labels -> the k best

Legend: B texts, C nodes in the longest shortlist of the batch (others are padded), K nodes passed on. A value of the
graph is represented by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto

from cxml.model import LevelHead
from cxml.prediction.onnx_graph import Graph
from cxml.prediction.packed_rows import PackedRows, RowFormat
from cxml.prediction.parts import Parts
from cxml.prediction.rare_labels import CANDIDATES

_LOWEST = float("-inf")


@dataclass(frozen=True)
class _SelectedClusters:
    """Clusters whose children are scored: nodes int64 [B, K], mask bool [B, K], their own logits [B, K]."""

    nodes: str
    mask: str
    logits: str


@dataclass(frozen=True)
class _Shortlist:
    """Nodes int64 [B, C], 0 where there is none; mask bool [B, C]; the place of each node's parent, int64 [B, C]."""

    nodes: str
    mask: str
    parents: str


def scores_all_labels(parts: Parts) -> bool:
    """Whether the model scores every label: if it was trained so, or if the tree has no clusters."""
    return parts.config.head.candidates == "all" or not parts.tree.offsets


def add_ranking(graph: Graph, parts: Parts, features: Sequence[str], k: str) -> tuple[str, str]:
    """Add the levels of the cascade.

    Args:
        graph: that computes the features.
        parts: of the model, its clusters in float32.
        features: of each level, float32 [B, D]; only the labels' if all labels are scored.
        k: labels wanted, int64 [1].

    Returns:
        Labels int64 [B, min(k, L)], best first, and their scores float32; -1 and 0 for none.
    """
    num_labels = parts.tree.num_labels
    wanted = graph.add("Min", k, [num_labels])
    count = wanted if parts.label_weights is None else graph.add("Max", wanted, [min(CANDIDATES, num_labels)])
    if scores_all_labels(parts):
        logits, positions = graph.best(_every_logit(graph, parts.rows, features[-1]), count)
    else:
        leaves = _best_leaves(graph, parts, features)
        logits, positions = _best_of_shortlist(graph, parts, features[-1], leaves, count)
    order = graph.stored("label_order", np.asarray(parts.tree.label_order, np.int64), "int64")
    is_none = graph.add("IsInf", logits)
    labels = graph.add("Where", is_none, -1, graph.add("Gather", order, positions))
    logits = graph.cast(logits, TensorProto.DOUBLE)
    if parts.label_weights is not None:
        labels, logits = _weighed(graph, labels, logits, parts.label_weights, wanted)
    scores = graph.cast(graph.add("Sigmoid", logits), TensorProto.FLOAT)
    missing = graph.add("Concat", [0, 0, 0], graph.add("Sub", wanted, graph.width(labels)), axis=0)
    return graph.add("Pad", labels, missing, -1), graph.add("Pad", scores, missing, 0.0)


def _every_logit(graph: Graph, rows: PackedRows, features: str) -> str:
    """Logits of all labels in tree order, float32 [B, L]."""
    weight, scale, bias = _rows(graph, rows)
    products = graph.add("Gemm", features, _floats(graph, weight, rows.format), transB=1)
    return graph.add("Add", graph.add("Mul", products, scale) if scale else products, bias)


def _best_leaves(graph: Graph, parts: Parts, features: Sequence[str]) -> _SelectedClusters:
    """The clusters that the last cluster level passes on."""
    above = None
    for level, size in enumerate(parts.model.shortlist_sizes[: len(parts.tree.offsets)]):
        head = parts.model.cluster_heads[level]
        assert isinstance(head, LevelHead), "prediction shards the labels alone"
        weight, bias = (_stored(graph, f"clusters_{level}", name, head) for name in ("weight", "bias"))
        if above is None:
            logits, nodes = graph.best(graph.add("Gemm", features[0], weight, bias, transB=1), _at_most(size, head))
        else:
            shortlist = _children(graph, parts.tree.offsets[level - 1], f"children_{level - 1}", above)
            own = graph.add("Add", _products(graph, weight, features[level], shortlist.nodes, "fp32"),
                            graph.add("Gather", bias, shortlist.nodes))  # fmt: skip
            own = graph.add("Where", shortlist.mask, own, _LOWEST)
            logits, slots = graph.best(own, graph.add("Min", [size], graph.width(own)))
            nodes = graph.at(shortlist.nodes, slots)
        above = _SelectedClusters(nodes, graph.add("Not", graph.add("IsInf", logits)), logits)
    assert above is not None, "there are clusters"
    return above


def _at_most(size: int, head: LevelHead) -> list[int]:
    return [min(size, len(head.weight))]


def _stored(graph: Graph, level: str, name: str, head: LevelHead) -> str:
    return graph.stored(f"{level}.{name}", getattr(head, name).detach().to("cpu", torch.float32).numpy(), "fp32")


def _best_of_shortlist(
    graph: Graph, parts: Parts, features: str, leaves: _SelectedClusters, k: str
) -> tuple[str, str]:  # fmt: skip
    """The logits of the scores of the k best labels below the leaves, and their positions in tree order."""
    shortlist = _children(graph, parts.tree.offsets[-1], "children", leaves)
    weight, scale, bias = _rows(graph, parts.rows)
    own = _products(graph, weight, features, shortlist.nodes, parts.rows.format)
    if scale:
        own = graph.add("Mul", own, graph.add("Gather", scale, shortlist.nodes))
    own = graph.add("Add", own, graph.add("Gather", bias, shortlist.nodes))
    own = graph.add("Where", shortlist.mask, own, _LOWEST)
    count = graph.add("Min", k, graph.width(own))
    if parts.model.scoring != "weighted":
        logits, slots = graph.best(own, count)
        return logits, graph.at(shortlist.nodes, slots)
    # Ties of scores are ranked by the labels' own logits, so the first sort is by these.
    own, order = graph.best(own, graph.width(own))
    parents = graph.at(leaves.logits, graph.at(shortlist.parents, order))
    logits, slots = graph.best(_joint_logit(graph, own, parents, 0.0, 1.0), count)
    return logits, graph.at(shortlist.nodes, graph.at(order, slots))


def _rows(graph: Graph, rows: PackedRows) -> tuple[str, str, str]:
    """The label rows' weight [L, D], scale [L] (empty if they have none) and bias [L]."""
    weight = graph.stored("label_rows.weight", rows.weight, rows.format)
    scale = graph.stored("label_rows.scale", rows.scale, "fp32") if rows.scale.size else ""
    return weight, scale, graph.stored("label_rows.bias", rows.bias, "fp32")


def _products(graph: Graph, weight: str, features: str, nodes: str, number_format: RowFormat) -> str:
    """Products of each text's feature with the rows of its nodes, float32 [B, C]."""
    rows = _floats(graph, graph.add("Gather", weight, nodes), number_format)
    return graph.add("Squeeze", graph.add("MatMul", rows, graph.add("Unsqueeze", features, [2])), [2])


def _floats(graph: Graph, weight: str, number_format: RowFormat) -> str:
    """Weights as float32, without the factors of their rows."""
    if number_format == "fp32":
        return weight
    if number_format != "fp8":
        return graph.cast(weight, TensorProto.FLOAT)
    # Opset 18 has no e4m3, so each byte is looked up in a table of 256 values.
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    return graph.add(
        "Gather", graph.stored("label_rows.numbers", numbers, "fp32"), graph.cast(weight, TensorProto.INT32)
    )


def _children(graph: Graph, offsets: np.ndarray, name: str, above: _SelectedClusters) -> _Shortlist:
    """All children of the chosen clusters; see `cxml.model.shortlist.children_of`."""
    stored = graph.stored(name, np.asarray(offsets, np.int64), "int64")
    starts = graph.add("Gather", stored, above.nodes)
    ends = graph.add("Gather", stored, graph.add("Add", above.nodes, 1))
    lengths = graph.add("Mul", graph.add("Sub", ends, starts), graph.cast(above.mask, TensorProto.INT64))
    until = graph.add("CumSum", lengths, 1)
    totals = graph.add("ReduceSum", lengths, [1])
    width = graph.add("ReduceMax", totals, keepdims=0)
    places = graph.add("Range", 0, width, 1)
    parents = _parents(graph, until, graph.add("Reshape", width, [1]))
    before = graph.add("Sub", starts, graph.add("Sub", until, lengths))
    mask = graph.add("Less", places, totals)
    children = graph.add("Where", mask, graph.add("Add", graph.at(before, parents), places), 0)
    return _Shortlist(children, mask, parents)


def _parents(graph: Graph, until: str, width: str) -> str:
    """Index of each child's cluster, int64 [B, C]: the number of clusters that end at or before its position.

    Args:
        graph: to add to.
        until: the place at which each cluster's children end, int64 [B, K].
        width: C, int64 [1].
    """
    shape = graph.add("Concat", graph.add("Shape", until, start=0, end=1), graph.add("Add", width, 1), axis=0)
    ones = graph.add("Expand", 1, graph.add("Shape", until))
    num_ends = graph.add("ScatterElements", graph.add("Expand", 0, shape), until, ones, axis=1, reduction="add")
    parents = graph.add("Slice", graph.add("CumSum", num_ends, 1), [0], width, [1])
    return graph.add("Min", parents, graph.add("Sub", graph.width(until), 1))


def _joint_logit(graph: Graph, a: str, b: str, zero: float | np.generic, one: float | np.generic) -> str:
    """`cxml.model.ranking.joint_logit`; `zero` and `one` are of the type of the values."""
    low, high = graph.add("Min", a, b), graph.add("Max", a, b)
    smallest = graph.add("Exp", graph.add("Neg", graph.add("Abs", high)))
    rest = graph.add("Add", smallest, graph.add("Exp", graph.add("Sub", low, graph.add("Max", high, zero))))
    capped = graph.add("Add", low, graph.add("Min", high, zero))
    return graph.add("Sub", capped, graph.add("Log", graph.add("Add", rest, one)))


def _weighed(graph: Graph, labels: str, logits: str, weights: np.ndarray, k: str) -> tuple[str, str]:
    """The k best candidates by score times label weight; see `cxml.prediction.rare_labels`."""
    stored = graph.stored("label_weights", weights.astype(np.float32), "fp32")
    weight = graph.add("Gather", stored, graph.add("Max", labels, 0))
    weight = graph.cast(weight, TensorProto.DOUBLE)
    zero, one = np.float64(0), np.float64(1)
    odds = graph.add("Log", graph.add("Div", weight, graph.add("Sub", one, weight)))
    weighed = _joint_logit(graph, logits, odds, zero, one)
    best, slots = graph.best(weighed, graph.add("Min", k, graph.width(labels)))
    return graph.at(labels, slots), best
