"""A linear model of a text's words over the label tree of the cascade.

Training: the texts' tf-idf, their labels, the tree -> one sparse linear classifier per node, trained on the texts of
its parent, as in Parabel (Prabhu et al., WWW 2018). Prediction is a beam search down the tree: the log-probability of a
node is that of its parent minus the squared hinge loss of its classifier.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse

from cxml.console import counted
from cxml.data import lengths_to_offsets
from cxml.evidence.beam import LevelWeights, Step, descend
from cxml.evidence.classifiers import Groups, Level, Solver, Texts, train_nodes
from cxml.tree import LabelTree
from cxml.tree.thread_pool import ThreadPool, default_threads

_log = logging.getLogger(__name__)

SOLVER = Solver(cost=1.0, tolerance=0.1, max_passes=50, least_weight=0.1)
"""C and the threshold for dropped weights are from Parabel."""
BEAM = 20
"""Beam width of each level of clusters. Parabel's 10 finds too few labels for a shortlist of 100."""

_TEXTS_AT_ONCE = 4096
_WORK_AT_ONCE = 1 << 22  # texts times classifiers of a block: bounds the time between two log lines of a thread
_LOG_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class WordModel:
    """Classifiers of every node of a tree.

    Attributes:
        tree: L labels.
        levels: one per level of the tree, with the label level last; its nodes are label positions.
        num_words: F.
    """

    tree: LabelTree
    levels: tuple[LevelWeights, ...]
    num_words: int

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return sum(array.nbytes for level in self.levels for array in level)

    def predict(
        self, features: sparse.csr_matrix, k: int, *, beam: int = BEAM, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best labels of N texts.

        Args:
            features: tf-idf, CSR float32 [N, F].
            k: labels per text, K.
            beam: beam width of each level of clusters.
            threads: number of threads; 0 for as many as the cores and OMP_NUM_THREADS allow.

        Returns:
            Label ids int64 [N, K], best first, -1 for none, and their log-probabilities, float32, -inf for none.
        """
        texts = _texts(features)
        num_texts = len(texts.indptr) - 1
        blocks = [(start, min(start + _TEXTS_AT_ONCE, num_texts)) for start in range(0, num_texts, _TEXTS_AT_ONCE)]
        k = min(k, self.tree.num_labels)
        if len(blocks) < 2:
            found = [self._predict_block(texts, k, beam, *block) for block in blocks]
        else:
            with ThreadPool(threads or default_threads()) as pool:
                found = pool.run(self._predict_block, [(texts, k, beam, *block) for block in blocks])
        positions = np.concatenate([np.zeros((0, k), np.int64), *(nodes for nodes, _ in found)])
        scores = np.concatenate([np.zeros((0, k), np.float32), *(scores for _, scores in found)])
        return np.where(positions >= 0, self.tree.label_order[np.maximum(positions, 0)], -1), scores

    def _predict_block(self, texts: Texts, k: int, beam: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        nodes, scores = np.zeros((last - first, 1), np.int64), np.zeros((last - first, 1), np.float32)
        all_children = [np.array([0, self.tree.level_sizes[0]]), *self.tree.offsets]
        for number, (level, children) in enumerate(zip(self.levels, all_children, strict=True)):
            width = k if number == len(self.tree.offsets) else beam
            nodes, scores = descend(Step(texts, level, children), first, nodes, scores, width)
        return nodes, scores

    def restricted(self, tree: LabelTree, kept: Sequence[np.ndarray]) -> WordModel:
        """The model of a subtree.

        Args:
            tree: the subtree.
            kept: the kept nodes of each level, sorted int64, with the label level last.
        """
        parents = [np.zeros(1, np.int64), *kept[:-1]]
        levels = (_kept(*each) for each in zip(self.levels, parents, kept, strict=True))
        return WordModel(tree, tuple(levels), self.num_words)


def train_word_model(
    features: sparse.csr_matrix,
    labels: sparse.csr_matrix,
    tree: LabelTree,
    *,
    seed: int = 0,
    solver: Solver = SOLVER,
    threads: int = 0,
) -> WordModel:
    """Train the classifiers of every node. The result is bit-identical for any number of threads.

    Memory: the features and labels, one float64 per word and thread, and the kept weights, with one level twice.

    Args:
        features: tf-idf, CSR float32 [N, F].
        labels: CSR [N, L], non-zero where a label is true.
        tree: over the L labels.
        seed: seed of the order in which texts are visited.
        solver: solver settings of each classifier.
        threads: number of threads; 0 for as many as the cores and OMP_NUM_THREADS allow.
    """
    texts = _texts(features)
    num_texts, num_words = cast(tuple[int, int], features.shape)
    above = Groups(np.array([0, num_texts]), np.arange(num_texts, dtype=np.int32))
    levels = []
    for number, of_label in enumerate(_nodes_of_labels(tree)):
        began = time.monotonic()
        size = tree.level_sizes[number]
        own = _texts_of_nodes(labels, of_label, size)
        parent = tree.parents(number) if number else np.zeros(size, np.int64)
        level = Level(texts, above, own, parent, num_words)
        blocks = _blocks(np.diff(above.offsets)[parent])
        weights = _train_level(
            [(level, first, last, solver, seed) for first, last in blocks],
            f"level {number + 1} of {len(tree.level_sizes)}", threads or default_threads(),
        )  # fmt: skip
        levels.append(_by_words(level, *weights))
        above = own
        _log.info(
            "Words: level %d of %d, %s, %s, %.1f s", number + 1, len(tree.level_sizes), counted(size, "classifier"),
            counted(len(levels[-1].values), "weight"), time.monotonic() - began,
        )  # fmt: skip
    return WordModel(tree, tuple(levels), num_words)


def _texts(features: sparse.csr_matrix) -> Texts:
    indices, values = features.indices.astype(np.int32, copy=False), features.data.astype(np.float32, copy=False)
    return Texts(features.indptr.astype(np.int64), indices, values)


def _nodes_of_labels(tree: LabelTree) -> Iterator[np.ndarray]:
    """Yield the node of each label id for every level, int [L], with the label level last."""
    yield from (tree.cluster_of_label(level) for level in range(len(tree.offsets)))
    yield tree.label_positions()


def _texts_of_nodes(labels: sparse.csr_matrix, of_label: np.ndarray, size: int) -> Groups:
    num_texts = len(labels.indptr) - 1
    ones = np.ones(len(labels.indices), np.int8)
    nodes = sparse.csr_matrix((ones, of_label[labels.indices], labels.indptr), (num_texts, size))
    by_node = nodes.tocsc()
    by_node.sum_duplicates()
    return Groups(by_node.indptr.astype(np.int64), by_node.indices.astype(np.int32))


def _blocks(work: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of nodes with about equal total work; `work` is int64 [nodes]."""
    done = np.cumsum(work + 1)
    bounds = np.searchsorted(done, np.arange(_WORK_AT_ONCE, int(done[-1]), _WORK_AT_ONCE)) + 1
    edges = np.unique(np.concatenate([[0], bounds, [len(work)]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _train_level(arguments: list[tuple], name: str, threads: int) -> tuple[np.ndarray, ...]:
    """CSR rows and biases of all nodes, from blocks of them."""
    parts, last = [], time.monotonic()
    with ThreadPool(threads) as pool:
        for start in range(0, len(arguments), threads):
            parts += pool.run(train_nodes, arguments[start : start + threads])
            if time.monotonic() - last > _LOG_SECONDS:
                last = time.monotonic()
                _log.info("Words: %s, block %d of %d", name, len(parts), len(arguments))
    lengths = np.concatenate([np.diff(offsets) for offsets, *_ in parts])
    return (lengths, *(np.concatenate([part[column] for part in parts]) for column in (1, 2, 3)))


def _by_words(
    level: Level, lengths: np.ndarray, words: np.ndarray, values: np.ndarray, bias: np.ndarray
) -> LevelWeights:
    """Regroup concatenated classifiers, `lengths` weights each, by parent and word."""
    nodes = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    keys = level.parent[nodes] * level.num_features + words
    order = np.argsort(keys, kind="stable")
    rows, counts = np.unique(keys[order], return_counts=True)
    starts = np.searchsorted(rows, np.arange(len(level.above.offsets)) * level.num_features)
    words_of_rows = (rows % level.num_features).astype(np.int32)
    return LevelWeights(starts, words_of_rows, lengths_to_offsets(counts), nodes[order], values[order], bias)


def _kept(level: LevelWeights, parents: np.ndarray, nodes: np.ndarray) -> LevelWeights:
    """The classifiers of some nodes and their parents, renumbered."""
    row_of = np.repeat(np.arange(len(level.words)), np.diff(level.offsets))
    places = np.searchsorted(nodes, level.nodes)
    is_kept = nodes[np.minimum(places, len(nodes) - 1)] == level.nodes
    counts = np.bincount(row_of[is_kept], minlength=len(level.words))
    parent_of = np.repeat(np.arange(len(level.starts) - 1), np.diff(level.starts))[counts > 0]
    return LevelWeights(
        np.append(np.searchsorted(parent_of, parents), np.count_nonzero(counts)), level.words[counts > 0],
        lengths_to_offsets(counts[counts > 0]), places[is_kept].astype(np.int32), level.values[is_kept],
        level.bias[nodes],
    )  # fmt: skip
