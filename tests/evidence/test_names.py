"""The source of label names: its nearest names, its curve, and the ranking of labels without train texts.

Oracles: a brute-force search, scikit-learn's logistic regression, and synthetic texts of known truth.
"""

import dataclasses

import numpy as np
import pytest
from scipy import sparse, special
from sklearn.linear_model import LogisticRegression
from support.evidence import TREE, folder_of

from cxml.data import Ragged
from cxml.errors import DataError
from cxml.evidence import (
    LabelledVectors,
    LabelSubset,
    NameSource,
    Proposals,
    TextViews,
    candidate_pairs,
    choose_combination,
    indexed,
    list_centres,
    nearest_lists,
    rank,
    unit_rows,
    write_lists,
    write_part,
)
from cxml.evidence.names import read_names

NUM_LABELS, WIDTH = TREE.num_labels, 16
NAMED = np.setdiff1d(np.arange(NUM_LABELS), [3, 17])
KS = (1, 3, 5)


def source_in(num_lists):
    """Names of all labels but two."""
    vectors = unit_rows(np.random.default_rng(0).normal(size=(NUM_LABELS, WIDTH))).astype(np.float16)
    centres = list_centres(vectors[NAMED], num_lists)
    labels = Ragged(NAMED.astype(np.int32), np.arange(len(NAMED) + 1))
    part = LabelledVectors(vectors[NAMED], nearest_lists(vectors[NAMED], centres), labels)
    index, labels = indexed([part], centres)
    return NameSource(index, labels.values, 8.0, -3.0), vectors.astype(np.float32), part


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(50, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("num_lists", [1, 7])
def test_the_nearest_names_are_those_of_brute_force(queries, num_lists):
    source, vectors, _ = source_in(num_lists)
    cosines = unit_rows(queries) @ vectors[NAMED].T
    expected = NAMED[np.argsort(-cosines, axis=1)]
    found = source.propose(TextViews(features=queries), NUM_LABELS)
    np.testing.assert_array_equal(found.labels, expected)
    best = -np.sort(-cosines, axis=1)
    np.testing.assert_allclose(found.scores, np.log(special.expit(8 * best - 3)), atol=5e-3)
    np.testing.assert_array_equal(source.propose(TextViews(features=queries), 4).labels, expected[:, :4])


@pytest.mark.parametrize("kept", [[0, 3, 5, 29], [3, 17]])
def test_a_restricted_source_gives_the_scores_of_before(queries, kept):
    source, _, _ = source_in(7)
    restricted = source.restricted(LabelSubset(TREE, [], np.array(kept)))
    before, found = (each.propose(TextViews(features=queries), NUM_LABELS) for each in (source, restricted))
    for row in range(len(queries)):
        expected = {label: s for label, s in zip(before.labels[row], before.scores[row], strict=True) if label in kept}
        scores = dict(zip(np.array(kept)[found.labels[row]].tolist(), found.scores[row], strict=True))
        assert scores == pytest.approx(expected)


def test_the_curve_is_that_of_scikit_learn(queries):
    source, _, _ = source_in(1)
    shown = source.propose(TextViews(features=queries), NUM_LABELS)
    cosines = (special.logit(np.exp(shown.scores.astype("f8"))) + 3) / 8
    chance = np.random.default_rng(2).random(cosines.shape)
    is_true = chance < special.expit(6 * cosines - 1)
    true = np.zeros((len(queries), NUM_LABELS))
    np.put_along_axis(true, shown.labels, is_true, 1)
    tuned = source.tuned(queries, sparse.csr_matrix(true))
    flat = cosines.ravel()
    standard = (flat - flat.mean()) / flat.std()
    oracle = LogisticRegression(C=1.0, tol=1e-8).fit(standard[:, None], is_true.ravel())
    np.testing.assert_allclose(
        tuned.slope * flat + tuned.offset, oracle.decision_function(standard[:, None]), atol=0.05
    )
    assert source.tuned(queries, sparse.csr_matrix(true.shape)).parameters == source.parameters


def test_a_source_that_was_written_reads_back_with_the_same_proposals(queries, tmp_path):
    source, _, _ = source_in(7)
    source.write(str(tmp_path / "good"))
    again = read_names(folder_of(tmp_path / "good"), TREE)
    for one, other in zip(*(each.propose(TextViews(features=queries), 9) for each in (source, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.num_bytes == source.num_bytes


def test_files_in_which_a_name_has_two_labels_are_refused(tmp_path):
    source, _, part = source_in(7)
    both = Ragged(np.append(part.labels.values, np.int32(3)), np.append(part.labels.offsets[:-1], 29))
    twice = part._replace(labels=both)
    write_part(str(tmp_path / "bad"), 0, twice)
    write_lists(str(tmp_path / "bad"), source.index.centres, source.parameters)
    with pytest.raises(DataError, match="one label per name"):
        read_names(folder_of(tmp_path / "bad"), TREE)


def problem(seed, may_be_true, num_texts=600):
    """A cascade that knows only labels from 10 on, names that know all; `may_be_true` bool [L]."""
    generator = np.random.default_rng(seed)
    true = np.zeros((num_texts, NUM_LABELS))
    for row in true:
        row[generator.choice(np.flatnonzero(may_be_true), 2, replace=False)] = 1
    of_cascade = 4 * true + generator.normal(size=true.shape)
    of_cascade[:, :10] = -6 + generator.normal(size=(num_texts, 10))
    of_names = 3 * true + generator.normal(size=true.shape) - 3
    labels = [np.argsort(-each, axis=1)[:, :12] for each in (of_cascade, of_names)]
    scores = [np.take_along_axis(each, own, 1) for each, own in zip((of_cascade, of_names), labels, strict=True)]
    cascade, names = Proposals(labels[0], special.expit(scores[0])), Proposals(labels[1], -np.log1p(np.exp(-scores[1])))
    return cascade, names, sparse.csr_matrix(true)


IS_SEEN = np.arange(NUM_LABELS) >= 10
FREQUENCY = np.where(IS_SEEN, np.arange(NUM_LABELS), 0)


def recall_of_unseen(combination, seed=7):
    """Of true labels without train texts, the share among the five best."""
    cascade, names, true = problem(seed, np.ones(NUM_LABELS, bool))
    pairs = candidate_pairs(cascade, [names], FREQUENCY)
    labels, _ = rank(pairs, combination.score(pairs), true.shape[0], 5)
    found = np.zeros(true.shape)
    rows = np.repeat(np.arange(len(labels)), (labels >= 0).sum(1))
    found[rows, labels[labels >= 0]] = 1
    return (true.toarray() * found)[:, ~IS_SEEN].sum() / true[:, ~IS_SEEN].sum()


@pytest.mark.parametrize("may_be_true", [IS_SEEN, np.ones(NUM_LABELS, bool)], ids=["never", "sometimes"])
def test_labels_without_train_texts_are_ranked_also_where_validation_texts_never_have_them(may_be_true):
    cascade, names, true = problem(0, may_be_true)
    pairs = candidate_pairs(cascade, [names], FREQUENCY)
    chosen = choose_combination(pairs, true, np.ones(NUM_LABELS), KS, sources=("names",))
    assert chosen.way == "learnt"
    assert recall_of_unseen(chosen) > 0.9
    if not may_be_true.all():
        assert recall_of_unseen(dataclasses.replace(chosen, unseen=None)) < 0.8
