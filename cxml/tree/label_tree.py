"""The label tree as arrays, and its folder on disk: `tree.arrow`, then `manifest.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cxml import artefacts, storage
from cxml.errors import DataError, StaleArtefactError

FORMAT_VERSION = 1
_FORMAT, _FILE = "cxml-label-tree", "tree.arrow"
_SCHEMA = pa.schema([("array", pa.string()), ("values", pa.large_list(pa.int64()))])
_REMEDY = "Build the tree again (--force tree)."


@dataclass(frozen=True, eq=False)
class LabelTree:
    """Clusters of labels in levels, coarse to fine; nodes of each level are numbered in tree order.

    Raises:
        ValueError: the arrays do not form a tree.
    """

    label_order: np.ndarray
    """int32 [L]: label id at each label position; each cluster is a contiguous range of positions."""
    offsets: tuple[np.ndarray, ...]
    """Per cluster level, int64 [n_l + 1]: children of node i are offsets[l][i]..offsets[l][i + 1] of the next level,
    which is the label positions after the last one. Every node has a child. Empty: no clusters."""

    def __post_init__(self) -> None:
        problem = _find_problem(self.label_order, self.offsets)
        if problem:
            raise ValueError(problem)

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.label_order)

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Nodes of each level, coarse to fine, with the labels last."""
        return (*(len(offsets) - 1 for offsets in self.offsets), self.num_labels)

    def children(self, level: int, node: int) -> range:
        """The children of a node of a cluster level, as nodes of the next level (label positions at the end)."""
        return range(int(self.offsets[level][node]), int(self.offsets[level][node + 1]))

    def parents(self, level: int) -> np.ndarray:
        """The parent of each node of `level` (> 0), int64 [n_level], as nodes of the level above."""
        return np.repeat(np.arange(len(self.offsets[level - 1]) - 1), np.diff(self.offsets[level - 1]))

    def label_offsets(self, level: int) -> np.ndarray:
        """The bounds of each cluster of `level` in label positions, int64 [n_level + 1]."""
        bounds = self.offsets[level]
        for offsets in self.offsets[level + 1 :]:
            bounds = offsets[bounds]
        return bounds

    def label_positions(self) -> np.ndarray:
        """The inverse of `label_order`: position of each label id, int32 [L]."""
        positions = np.empty_like(self.label_order)
        positions[self.label_order] = np.arange(self.num_labels, dtype=self.label_order.dtype)
        return positions

    def cluster_of_label(self, level: int) -> np.ndarray:
        """The cluster of `level` of each label id, int32 [L]."""
        bounds = self.label_offsets(level)
        clusters = np.empty(self.num_labels, np.int32)
        clusters[self.label_order] = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
        return clusters

    @classmethod
    def from_clusters(cls, clusters: Sequence[np.ndarray], num_labels: int) -> LabelTree:
        """Build a tree in which label i belongs to cluster `clusters[l][i]` of level l, coarse to fine, each int [L].

        Clusters are renumbered, in the order of their numbers within the parent cluster.

        Raises:
            ValueError: a cluster belongs to two clusters of the level above.
        """
        order = np.lexsort(clusters[::-1]) if clusters else np.arange(num_labels)
        nodes, starts = [], [np.zeros(1, np.int64)]
        for level, of_label in enumerate(clusters):
            changes = np.flatnonzero(np.diff(of_label[order])) + 1
            bounds = np.union1d(changes, starts[-1])
            if len(bounds) != len(np.unique(of_label)):
                raise ValueError(f"a cluster of level {level} belongs to two clusters of the level above")
            nodes.append(np.searchsorted(bounds, starts[-1]))
            starts.append(bounds)
        offsets = [np.append(first, len(below)) for first, below in zip(nodes[1:], starts[2:], strict=True)]
        if clusters:
            offsets.append(np.append(starts[-1], num_labels))
        return cls(order.astype(np.int32), tuple(each.astype(np.int64) for each in offsets))

    def save(self, url: str, facts: Mapping[str, Any]) -> None:
        """Write the tree into the folder `url`; its manifest includes `facts` (JSON-serialisable)."""
        storage.remove(storage.join(url, artefacts.MANIFEST))
        names = ["label_order", *(f"offsets_{level}" for level in range(len(self.offsets)))]
        arrays = [self.label_order, *self.offsets]
        values = pa.array([array.astype(np.int64) for array in arrays], _SCHEMA.field("values").type)
        content = artefacts.arrow_file(pa.table([pa.array(names), values], schema=_SCHEMA))
        storage.write_atomic(storage.join(url, _FILE), content)
        checksum = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = {"format": _FORMAT, "version": FORMAT_VERSION, "level_sizes": list(self.level_sizes)}
        artefacts.write_manifest(url, {**facts, **manifest, "files": {_FILE: checksum}})

    @classmethod
    def load(cls, url: str, *, fingerprint: str | None = None) -> LabelTree:
        """Read the tree in the folder `url`.

        Args:
            url: folder that `save` wrote.
            fingerprint: required fingerprint of the tree; None accepts any.

        Raises:
            DataError: the tree is incomplete or damaged.
            StaleArtefactError: the tree was made from another config or other data.
        """
        manifest = read_tree_manifest(url)
        if fingerprint is not None and manifest.get("fingerprint") != fingerprint:
            raise StaleArtefactError(
                f"{url}: this tree has fingerprint {manifest.get('fingerprint')}, but the config and the data give "
                f"{fingerprint}. {_REMEDY}"
            )
        arrays = _read_arrays(url, manifest)
        try:
            label_order, *offsets = arrays
            tree = cls(label_order, tuple(offsets))  # checked before a conversion to int32 could overflow
            tree = replace(tree, label_order=label_order.astype(np.int32))
        except ValueError as error:
            raise DataError(storage.join(url, _FILE), str(error), _REMEDY) from error
        if list(tree.level_sizes) != manifest.get("level_sizes"):
            raise DataError(
                storage.join(url, _FILE), f"has levels of {tree.level_sizes} nodes, unlike its manifest", _REMEDY
            )
        return tree


def read_tree_manifest(url: str) -> dict[str, Any]:
    """The manifest of the tree in the folder `url`.

    Raises:
        DataError: the manifest is missing or has another format.
    """
    file = storage.join(url, artefacts.MANIFEST)
    try:
        return artefacts.read_manifest(url, _REMEDY, format=_FORMAT, version=FORMAT_VERSION)
    except FileNotFoundError as error:
        raise DataError(file, "is missing, so the tree in this folder is incomplete", _REMEDY) from error


def _read_arrays(url: str, manifest: Mapping[str, Any]) -> list[np.ndarray]:
    files = artefacts.named_entries(manifest.get("files"), storage.join(url, artefacts.MANIFEST), _REMEDY)
    if files.keys() != {_FILE}:
        raise DataError(storage.join(url, artefacts.MANIFEST), f"must list only the file {_FILE}", _REMEDY)
    content = artefacts.read_file(url, files[_FILE], _REMEDY)
    batches = artefacts.read_batches(content, [_SCHEMA], storage.join(url, _FILE), _REMEDY)
    return [artefacts.as_numpy(row.values) for batch in batches for row in batch["values"]]


def _find_problem(label_order: np.ndarray, offsets: tuple[np.ndarray, ...]) -> str:
    """The reason why the arrays do not form a tree, or an empty string."""
    num_labels = len(label_order)
    if label_order.ndim != 1 or label_order.dtype.kind != "i" or num_labels == 0:
        return "label_order is not a list of label ids"
    if not np.array_equal(np.sort(label_order), np.arange(num_labels)):
        return f"label_order does not contain each label 0..{num_labels - 1} once"
    for level, bounds in enumerate(offsets):
        if bounds.ndim != 1 or bounds.dtype.kind != "i" or len(bounds) < 2:
            return f"offsets of level {level} are not a one-dimensional list of bounds"
        end = len(offsets[level + 1]) - 1 if level + 1 < len(offsets) else num_labels
        if bounds[0] != 0 or bounds[-1] != end or np.any(np.diff(bounds) < 1):
            return f"offsets of level {level} do not increase from 0 to the {end} nodes of the next level"
    return ""
