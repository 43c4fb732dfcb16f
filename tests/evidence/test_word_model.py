"""The linear word model: its classifiers, its beam search and its independence of threads and blocks.

Oracles: scikit-learn's `LinearSVC`, and a brute-force ranking over dense matrices.
"""

import numpy as np
import pytest
from scipy import sparse
from sklearn.svm import LinearSVC
from support.random_words import random_texts

from cxml.evidence.classifiers import Problem, Solver, Texts, fit_classifier
from cxml.evidence.word_model import SOLVER, train_word_model
from cxml.tree import LabelTree

EXACT = Solver(cost=1.0, tolerance=1e-6, max_passes=5000, least_weight=0.0)


@pytest.fixture(scope="module")
def model(texts, tree):
    return train_word_model(*texts, tree, threads=1)


def dense_weights(level, num_nodes, num_words):
    """Classifiers as a dense matrix [nodes, words + 1], the bias last."""
    weights = np.zeros((num_nodes, num_words + 1))
    row_of = np.repeat(np.arange(len(level.words)), np.diff(level.offsets))
    weights[level.nodes, level.words[row_of]] = level.values
    weights[:, -1] = level.bias
    return weights


@pytest.mark.parametrize("cost", [0.3, 1.0, 5.0])
def test_a_classifier_is_that_of_scikit_learns_linear_svc(texts, cost):
    features, labels = texts
    rows = np.flatnonzero(np.arange(features.shape[0]) % 3)
    is_true = labels[rows, 4].toarray().ravel() > 0
    oracle = LinearSVC(C=cost, loss="squared_hinge", dual=True, tol=1e-9, max_iter=10**6, intercept_scaling=1.0)
    oracle.fit(features[rows].astype(np.float64), is_true)
    weights = np.zeros(features.shape[1] + 1)
    arrays = Texts(features.indptr.astype(np.int64), features.indices.astype(np.int32), features.data)
    problem = Problem(arrays, rows.astype(np.int32), np.where(is_true, 1, -1).astype(np.int8))
    fit_classifier(problem, EXACT._replace(cost=cost), np.uint64(3), weights)
    np.testing.assert_allclose(weights, [*oracle.coef_[0], oracle.intercept_[0]], atol=2e-5)


def test_every_nodes_classifier_is_trained_on_the_texts_of_its_parent(texts, tree):
    features, labels = texts
    model = train_word_model(features, labels, tree, solver=EXACT, threads=1)
    of_label = [*(tree.cluster_of_label(level) for level in range(2)), tree.label_positions()]
    inside = [
        np.asarray((labels @ np.eye(size)[own]) > 0) for own, size in zip(of_label, tree.level_sizes, strict=True)
    ]
    for number, level in enumerate(model.levels):
        weights = dense_weights(level, tree.level_sizes[number], features.shape[1])
        for node in range(tree.level_sizes[number]):
            parent = tree.parents(number)[node] if number else 0
            rows = inside[number - 1][:, parent] if number else np.ones(features.shape[0], bool)
            is_true = inside[number][rows, node]
            oracle = LinearSVC(C=1.0, dual=True, tol=1e-9, max_iter=10**6).fit(features[rows], is_true)
            np.testing.assert_allclose(weights[node], [*oracle.coef_[0], oracle.intercept_[0]], atol=5e-4)


def brute_force(model, features):
    """Log-probabilities of all labels by id, [N, L], from dense matrices."""
    tree = model.tree
    totals = np.zeros((features.shape[0], 1))
    with_bias = np.hstack([features.toarray(), np.ones((features.shape[0], 1))])
    for number, level in enumerate(model.levels):
        weights = dense_weights(level, tree.level_sizes[number], features.shape[1])
        parent = tree.parents(number) if number else np.zeros(tree.level_sizes[0], int)
        totals = totals[:, parent] - np.maximum(0, 1 - with_bias @ weights.T) ** 2
    return totals[:, tree.label_positions()]


def test_a_beam_of_all_nodes_ranks_as_brute_force_does(model, texts):
    features, _ = texts
    expected = brute_force(model, features)
    labels, scores = model.predict(features, 24, beam=100)
    assert (np.sort(labels, axis=1) == np.arange(24)).all()
    np.testing.assert_allclose(scores, np.take_along_axis(expected, labels, 1), atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_narrow_beam_gives_labels_of_its_clusters_only_with_the_same_scores(model, texts, tree):
    features, _ = texts
    expected = brute_force(model, features)
    labels, scores = model.predict(features, 24, beam=1)
    leaves = np.where(labels >= 0, tree.cluster_of_label(1)[labels], -1)
    assert (leaves.max(1) == np.where(leaves >= 0, leaves, 99).min(1)).all()
    found = labels >= 0
    rows = np.repeat(np.arange(len(labels)), found.sum(1))
    np.testing.assert_allclose(scores[found], expected[rows, labels[found]], atol=1e-4)
    assert (scores[~found] == -np.inf).all()


def test_the_words_tell_the_labels(model, texts):
    features, labels = random_texts(seed=5)
    best, _ = model.predict(features, 1)
    assert np.asarray(labels[np.arange(labels.shape[0]), best[:, 0]]).mean() > 0.8


def test_the_same_bits_on_any_number_of_threads_and_in_any_blocks(model, texts, tree, monkeypatch):
    monkeypatch.setattr("cxml.evidence.word_model._WORK_AT_ONCE", 500)
    monkeypatch.setattr("cxml.evidence.word_model._TEXTS_AT_ONCE", 7)
    again = train_word_model(*texts, tree, threads=3)
    for one, other in zip(model.levels, again.levels, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    for left, right in zip(model.predict(texts[0], 5), again.predict(texts[0], 5, threads=2), strict=True):
        np.testing.assert_array_equal(left, right)


def test_small_weights_are_dropped_and_the_others_stay(texts, tree):
    features, labels = texts
    whole = train_word_model(features, labels, tree, solver=SOLVER._replace(least_weight=0.0), threads=1)
    pruned = train_word_model(features, labels, tree, threads=1)
    for number, (one, other) in enumerate(zip(whole.levels, pruned.levels, strict=True)):
        every = dense_weights(one, tree.level_sizes[number], features.shape[1])
        kept = np.where(np.abs(every) >= SOLVER.least_weight, every, 0)
        kept[:, -1] = every[:, -1]
        np.testing.assert_array_equal(dense_weights(other, tree.level_sizes[number], features.shape[1]), kept)
    assert pruned.num_bytes < whole.num_bytes


def test_a_restricted_model_gives_the_scores_of_before(model, texts, tree):
    features, _ = texts
    labels = np.array([0, 2, 3, 7, 11, 19, 23])
    positions = np.sort(tree.label_positions()[labels])
    leaves = np.unique(tree.cluster_of_label(1)[labels])
    tops = np.unique(tree.cluster_of_label(0)[labels])
    kept = [tops, leaves]
    clusters = [np.searchsorted(nodes, tree.cluster_of_label(level)[labels]) for level, nodes in enumerate(kept)]
    smaller = LabelTree.from_clusters(clusters, len(labels))
    # The smaller tree's labels are in the order of their positions before.
    smaller = LabelTree(np.searchsorted(labels, tree.label_order[positions]).astype(np.int32), smaller.offsets)
    restricted = model.restricted(smaller, [*kept, positions])
    best, scores = restricted.predict(features, 7, beam=100)
    np.testing.assert_allclose(scores, np.take_along_axis(brute_force(model, features), labels[best], 1), atol=1e-4)


def test_labels_without_texts_and_texts_without_words_are_no_errors(tree):
    features, labels = random_texts(60)
    labels = sparse.csr_matrix(labels.multiply(np.arange(24) > 2))
    labels.eliminate_zeros()
    features = sparse.vstack([features[:59], sparse.csr_matrix((1, features.shape[1]), dtype=np.float32)]).tocsr()
    model = train_word_model(features, labels, tree, threads=1)
    best, scores = model.predict(features, 24, beam=100)
    assert np.isfinite(scores).all()
    assert not np.isin(best[:, 0], [0, 1, 2]).any()


def test_no_texts_are_predicted_as_none(model):
    labels, scores = model.predict(sparse.csr_matrix((0, 120), dtype=np.float32), 5)
    assert labels.shape == scores.shape == (0, 5)


def test_a_tree_without_clusters_is_one_level(texts):
    features, labels = texts
    flat = train_word_model(features, labels, LabelTree(np.arange(24, dtype=np.int32), ()), threads=1)
    best, scores = flat.predict(features, 24)
    np.testing.assert_allclose(scores, np.take_along_axis(brute_force(flat, features), best, 1), atol=1e-4)
