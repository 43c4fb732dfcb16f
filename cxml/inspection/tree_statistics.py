"""Statistics of a label tree: sizes, balance, similarity of the labels in clusters, cluster recall, examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import sparse

from cxml import urls
from cxml.data import ShardedDataset, read_label_table
from cxml.errors import DataError
from cxml.tree import LabelTree, cluster_recall, mean_cosine, pifa
from cxml.tree.label_tree import read_tree_manifest

_TERMS_PER_LABEL = 1000
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class LevelStatistics:
    """Facts about one level of clusters.

    Attributes:
        children: of each cluster, int64 [n].
        labels: of each cluster, int64 [n].
        cosine: mean cosine of labels and their cluster's centroid, by the tf-idf of their texts; None without a data
            set.
        cluster_recall: share of test labels in the clusters nearest to their texts; None without a test split.
    """

    children: np.ndarray
    labels: np.ndarray
    cosine: float | None = None
    cluster_recall: float | None = None


def collect_tree_statistics(tree: LabelTree, data_url: str, *, top_k: int, max_texts: int) -> list[LevelStatistics]:
    """Statistics of each level of `tree`, coarse to fine; those from texts only if `data_url` is given.

    Raises:
        DataError: the number of labels differs from the data set.
    """
    levels = range(len(tree.offsets))
    sizes = [LevelStatistics(np.diff(tree.offsets[level]), np.diff(tree.label_offsets(level))) for level in levels]
    if not data_url:
        return sizes
    train = ShardedDataset(data_url, "train")
    if train.manifest.num_labels != tree.num_labels:
        problem = f"has {train.manifest.num_labels} labels, but the tree has {tree.num_labels}"
        raise DataError(data_url, problem, "Give the data set that the tree was built from.")
    features = pifa(train.labels_csr(), train.features_csr(), _TERMS_PER_LABEL)
    test = _some_texts(data_url, max_texts) if "test" in train.manifest.splits else None
    found = []
    for level, size in zip(levels, sizes, strict=True):
        of_label = tree.cluster_of_label(level)
        recall = cluster_recall(features, of_label, *test, top_k) if test else None
        found.append(LevelStatistics(size.children, size.labels, mean_cosine(features, of_label), recall))
    return found


def print_tree_report(url: str, data_url: str, *, top_k: int, max_texts: int, num_examples: int) -> None:
    """Tables for a terminal or a log."""
    tree, console = LabelTree.load(url), Console()
    levels = collect_tree_statistics(tree, data_url, top_k=top_k, max_texts=max_texts)
    console.print(_facts(url, tree))
    if levels:
        console.print(_levels(levels, top_k))
    if data_url and levels and num_examples:
        console.print(_examples(tree, read_label_table(data_url).shown, num_examples))


def _some_texts(data_url: str, max_texts: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Features and labels of test texts, evenly spread."""
    test = ShardedDataset(data_url, "test")
    rows = np.unique(np.linspace(0, len(test) - 1, min(max_texts, len(test))).astype(np.int64))
    return test.features(rows), test.labels_csr()[rows]


def _facts(url: str, tree: LabelTree) -> Table:
    manifest = read_tree_manifest(url)
    table = Table(title=Text(urls.masked(url)), show_header=False)
    table.add_row("labels", f"{tree.num_labels:,}")
    table.add_row("clusters", " > ".join(f"{size:,}" for size in tree.level_sizes[:-1]) or "none")
    for name in ("fingerprint", "seed", "imported"):
        if name in manifest:
            table.add_row(name, Text(str(manifest[name])))
    return table


def _levels(levels: list[LevelStatistics], top_k: int) -> Table:
    with_data = levels[0].cosine is not None
    headers = ["level", "clusters", "children", "labels", "labels, mean"]
    headers += ["mean cosine", f"test labels in {top_k} clusters"] if with_data else []
    table = Table(*headers, caption="Ranges are from the smallest to the largest cluster.")
    for number, level in enumerate(levels):
        cells = [str(number), f"{len(level.labels):,}", _range(level.children), _range(level.labels)]
        cells.append(f"{level.labels.mean():,.1f}")
        if with_data:
            cells += [
                f"{level.cosine:.4f}",
                "no test split" if level.cluster_recall is None else f"{level.cluster_recall:.1%}",
            ]
        table.add_row(*cells)
    return table


def _range(counts: np.ndarray) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _examples(tree: LabelTree, names: list[str], count: int) -> Table:
    table = Table("level", "cluster", "labels", "names", title="Examples", show_lines=True)
    for level in range(len(tree.offsets)):
        bounds = tree.label_offsets(level)
        for node in np.unique(np.linspace(0, len(bounds) - 2, count + 2).astype(np.int64)[1:-1]).tolist():
            labels = tree.label_order[bounds[node] : bounds[node + 1]]
            shown = "; ".join(names[label] for label in labels[:_NAMES_SHOWN])
            more = f"; and {len(labels) - _NAMES_SHOWN:,} more" if len(labels) > _NAMES_SHOWN else ""
            table.add_row(str(level), str(node), f"{len(labels):,}", Text(shown + more))
    return table
