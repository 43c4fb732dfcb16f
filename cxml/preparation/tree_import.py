"""Import trees of other tools: PECOS's cluster chain, and CascadeXML's pickled clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.config import Config
from cxml.data import DataManifest, data_url, read_sparse_npz
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats.plain_pickle import load_plain
from cxml.storage.locks import locked
from cxml.tree import LabelTree, fit_levels, save_tree, tree_url

_SAVE_AGAIN = "Save the clusters again."


def import_tree(config: Config, source: str) -> LabelTree:
    """Import a tree of another tool as the tree of a run, with the levels of `tree.level_sizes`.

    Args:
        config: the run, whose data set is prepared.
        source: folder or URL of a PECOS cluster chain, or a file with CascadeXML's pickled clusters.

    Raises:
        DataError: the source is broken, or does not fit the data set's labels.
        ConfigError: it has no level of a requested size.
        StaleArtefactError: the run already has a tree.
        InUseError: another command writes to the tree's folder.
    """
    with locked(tree_url(config)):
        return _import_tree(config, source)


def _import_tree(config: Config, source: str) -> LabelTree:
    manifest, out = DataManifest.read(data_url(config)), tree_url(config)
    config = fit_levels(config, manifest.num_labels)
    if storage.exists(storage.join(out, MANIFEST)):
        raise StaleArtefactError(f"{out}: the folder already contains a tree. Use another output.")
    if not source or not storage.exists(source):
        raise ConfigError("--source", source, "does not exist", "Give a folder with C0.npz, or a pickled file.")
    levels = read_chain(source) if storage.is_folder(source) else read_clusters(source)
    if len(levels[0]) != manifest.num_labels:
        problem = f"has {len(levels[0])} labels, but the data set has {manifest.num_labels}"
        raise DataError(source, problem, "Cluster the labels of this data set, in the order of their ids.")
    try:
        tree = LabelTree.from_clusters(_choose(levels, config.tree.sizes), manifest.num_labels)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise DataError(source, str(error), "Choose nested levels.") from error
    save_tree(config, tree, manifest.fingerprint, imported=source)
    return tree


def read_chain(folder: str) -> list[np.ndarray]:
    """PECOS's cluster chain: matrices C0.npz, C1.npz, ... [children, parents].

    Returns:
        The cluster of each label, int [L], at each level, coarse to fine.

    Raises:
        DataError: a matrix is missing or broken, or does not fit the one above.
    """
    parents: list[np.ndarray] = []
    while storage.exists(file := storage.join(folder, f"C{len(parents)}.npz")):
        above = len(parents[-1]) if parents else None
        parents.append(_parents(file, above))
    if not parents or storage.exists(storage.join(folder, f"C{len(parents) + 1}.npz")):
        raise DataError(file, "is missing", "A cluster chain is C0.npz, C1.npz and so on, without gaps.")
    levels, of_label = [], np.arange(len(parents[-1]))
    for of_child in reversed(parents):
        of_label = of_child[of_label]
        levels.append(of_label)
    return levels[::-1]


def read_clusters(file: str) -> list[np.ndarray]:
    """CascadeXML's clusters: a pickled list of levels, each a list of clusters, each a list or array of label ids.

    Returns:
        The cluster of each label, int [L], at each level, coarse to fine.
    """
    found = load_plain(storage.read_bytes(file), file)
    if not isinstance(found, list) or not found:
        raise DataError(file, "is not a list of levels", _SAVE_AGAIN)
    levels = []
    for number, clusters in enumerate(found):
        try:
            members = [np.asarray(cluster, np.int64).reshape(-1) for cluster in clusters]
            labels = np.concatenate(members)
        except (TypeError, ValueError) as error:
            raise DataError(file, f"level {number} is not a list of clusters of label ids", _SAVE_AGAIN) from error
        if not np.array_equal(np.sort(labels), np.arange(len(labels))):
            raise DataError(file, f"level {number} does not contain each label once", _SAVE_AGAIN)
        of_label = np.empty(len(labels), np.int64)
        of_label[labels] = np.repeat(np.arange(len(members)), [len(each) for each in members])
        levels.append(of_label)
    if len({len(level) for level in levels}) != 1:
        raise DataError(file, "its levels have different numbers of labels", _SAVE_AGAIN)
    return levels


def _parents(file: str, num_parents: int | None) -> np.ndarray:
    """The only parent of each child in a matrix [children, parents], int64."""
    matrix = read_sparse_npz(storage.read_bytes(file), file, _SAVE_AGAIN)
    parents = matrix.shape[1]
    if num_parents not in (None, parents):
        raise DataError(file, f"has {parents} parents, but the level above has {num_parents} clusters", _SAVE_AGAIN)
    if (np.diff(matrix.offsets) != 1).any():
        raise DataError(file, "a cluster or label does not have exactly one parent", "Put each label in one cluster.")
    of_child = matrix.columns.astype(np.int64)
    if ((of_child < 0) | (of_child >= parents)).any():
        raise DataError(file, f"refers to parents outside 0..{parents - 1}", _SAVE_AGAIN)
    return of_child


def _choose(levels: list[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    by_size = {len(np.unique(level)): level for level in levels}
    for size in sizes:
        if size not in by_size:
            known = ", ".join(str(known) for known in sorted(by_size))
            problem = f"the imported tree has no level of {size} clusters"
            raise ConfigError("tree.level_sizes", list(sizes), problem, f"Its levels have {known}.")
    return [by_size[size] for size in sizes]
