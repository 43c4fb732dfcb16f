"""The combination of sources: symmetric in the sources, calibrated, and no worse than its best part.

Oracles: synthetic texts of known truth, scikit-learn's logistic regression, and hand-computed pairs.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, special
from sklearn.linear_model import LogisticRegression

from cxml.evidence import Proposals, candidate_pairs, choose_combination, rank, scoring_methods
from cxml.evidence.combination import cascade_alone, favour_rare, feature_names
from cxml.evidence.logistic import fit_logistic
from cxml.metrics import metric_sums

NUM_LABELS, NUM_TEXTS = 40, 1500
KS = (1, 3, 5)


def synthetic(*strengths, seed=0, num_texts=NUM_TEXTS):
    """Texts with two true labels, a cascade and sources whose scores know so much of them (0: noise)."""
    generator = np.random.default_rng(seed)
    true = np.zeros((num_texts, NUM_LABELS))
    for row in true:
        row[generator.choice(NUM_LABELS, 2, replace=False)] = 1
    scores = [strength * true + generator.normal(size=true.shape) for strength in strengths]
    parts = []
    for number, each in enumerate(scores):
        labels = np.argsort(-each, axis=1)[:, :15]
        best = np.take_along_axis(each, labels, 1)
        parts.append(Proposals(labels, (-np.log1p(np.exp(1 - best)) if number else special.expit(best)).astype("f4")))
    return (*parts, sparse.csr_matrix(true))


FREQUENCY = np.random.default_rng(9).integers(1, 50, NUM_LABELS)
WEIGHTS = np.linspace(1, 3, NUM_LABELS)
FEATURES = feature_names(["words"])


def ndcg(pairs, logits, true):
    return metric_sums(rank(pairs, logits, true.shape[0], 5)[0], true, KS).result()["nDCG@5"]


@pytest.mark.parametrize(("of_cascade", "of_words"), [(3, 0), (0, 3), (2, 2), (3, 1)])
def test_what_is_chosen_is_not_worse_than_the_best_part_on_other_texts(of_cascade, of_words):
    cascade, words, true = synthetic(of_cascade, of_words)
    chosen = choose_combination(candidate_pairs(cascade, [words], FREQUENCY), true, WEIGHTS, KS, sources=("words",))
    cascade, words, true = synthetic(of_cascade, of_words, seed=1)
    pairs = candidate_pairs(cascade, [words], FREQUENCY)
    parts = [ndcg(pairs, chosen.score_by(way, pairs), true) for way in ("cascade", "words")]
    assert ndcg(pairs, chosen.score(pairs), true) >= max(parts) - 0.5
    if of_cascade == of_words:
        assert ndcg(pairs, chosen.score(pairs), true) > max(parts) + 5


@settings(deadline=None)
@given(
    probability=st.floats(1e-9, 1 - 1e-6), texts=st.integers(0, 10**7),
    power=st.sampled_from([0.0, 1e-4, 1e-3, 0.5]),
)  # fmt: skip
def test_a_power_of_the_train_texts_divides_probabilities(probability, texts, power):
    logits = np.array([special.logit(probability)], np.float32)
    found = special.expit(favour_rare(logits, np.log1p([texts]), power).astype(np.float64))
    expected = special.expit(logits.astype(np.float64)) / (1.0 + texts) ** power
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_extreme_logits_keep_their_order_under_a_power():
    logits = np.array([-np.inf, -1e4, -80, 0, 30, 80, 1e4], np.float32)
    found = favour_rare(logits, np.log1p(np.full(len(logits), 100)), 1e-3)
    assert not np.isnan(found).any()
    assert (np.diff(found[1:]) >= 0).all()
    assert found[0] == -np.inf
    np.testing.assert_array_equal(favour_rare(logits, np.zeros(len(logits)), 1e-3), logits)


def nearly_tied(seed):
    """Texts with a frequent and a rare label, both nearly certain, and unlikely others; train texts, and weights."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((NUM_TEXTS, NUM_LABELS))
    truth[:, 0], truth[np.arange(NUM_TEXTS), generator.integers(1, NUM_LABELS, NUM_TEXTS)] = 1, 1
    parts = []
    for number in range(2):
        logits = np.where(truth > 0, 6, -6) + np.eye(1, NUM_LABELS) + generator.normal(size=truth.shape)
        labels = np.argsort(-logits, axis=1)[:, :15]
        best = special.expit(np.take_along_axis(logits, labels, 1))
        parts.append(Proposals(labels, (np.log(best) if number else best).astype("f4")))
    frequency = np.where(np.arange(NUM_LABELS) == 0, 40_000, 3)
    return *parts, sparse.csr_matrix(truth), frequency, np.where(np.arange(NUM_LABELS) == 0, 1.05, 9.0)


def test_of_nearly_certain_labels_the_rarer_is_first_at_little_cost():
    cascade, words, true, frequency, weights = nearly_tied(0)
    chosen = choose_combination(candidate_pairs(cascade, [words], frequency), true, weights, KS, sources=("words",))
    assert chosen.rarity > 0
    cascade, words, true, frequency, weights = nearly_tied(1)
    pairs = candidate_pairs(cascade, [words], frequency)
    plain, found = (
        metric_sums(rank(pairs, each.score(pairs), NUM_TEXTS, 5)[0], true, KS, weights).result()
        for each in (replace(chosen, rarity=0.0), chosen)
    )
    assert found["PSP@1"] > plain["PSP@1"] + 10
    for name in ("P@1", "P@3", "P@5", "nDCG@5"):
        assert found[name] >= plain[name] - 0.3


def test_a_power_that_costs_precision_is_not_used():
    """The rare label is nearly as probable by its score, and never true."""
    cascade, words, true, frequency, weights = nearly_tied(0)
    wrong = sparse.csr_matrix((true.toarray() * (frequency > 3)).astype(float))
    chosen = choose_combination(candidate_pairs(cascade, [words], frequency), wrong, weights, KS, sources=("words",))
    assert chosen.rarity == 0


@pytest.mark.parametrize("num_texts", [20, 60, 200])
def test_what_few_texts_choose_is_on_average_no_worse_than_any_fixed_way(num_texts):
    sources = ("words", "names")
    *parts, true = synthetic(2, 1.5, 0.5, seed=1)
    pairs = candidate_pairs(parts[0], parts[1:], FREQUENCY)
    found = []
    for seed in range(10, 26):
        *few, few_true = synthetic(2, 1.5, 0.5, seed=seed, num_texts=num_texts)
        chosen = choose_combination(candidate_pairs(few[0], few[1:], FREQUENCY), few_true, WEIGHTS, KS, sources=sources)
        ways = [chosen.way, *scoring_methods(sources)]
        found.append([ndcg(pairs, chosen.score_by(way, pairs), true) for way in ways])
    of_choice, *of_ways = np.mean(found, 0)
    assert of_choice >= max(of_ways) - 0.5


def test_its_scores_are_probabilities():
    cascade, words, true = synthetic(2, 2, seed=3)
    pairs = candidate_pairs(cascade, [words], FREQUENCY)
    chosen = choose_combination(pairs, true, WEIGHTS, KS, sources=("words",))
    assert chosen.way == "learnt"
    probability = special.expit(chosen.score(pairs))
    is_true = np.asarray(true[pairs.rows, pairs.labels]).ravel() > 0
    for low, high in ((0.0, 0.1), (0.1, 0.4), (0.4, 1.0)):
        inside = (probability >= low) & (probability < high)
        assert abs(probability[inside].mean() - is_true[inside].mean()) < 0.05


def test_the_order_of_proposals_texts_and_label_ids_does_not_matter():
    cascade, words, _ = synthetic(2, 1)
    generator = np.random.default_rng(0)
    columns, rows, ids = generator.permutation(15), generator.permutation(NUM_TEXTS), generator.permutation(NUM_LABELS)

    def moved(part):
        return Proposals(ids[part.labels[rows][:, columns]], part.scores[rows][:, columns])

    frequency = np.empty_like(FREQUENCY)
    frequency[ids] = FREQUENCY
    plain, changed = (
        candidate_pairs(cascade, [words], FREQUENCY),
        candidate_pairs(moved(cascade), [moved(words)], frequency),
    )
    features = {
        (row, ids[label]): each for row, label, each in zip(plain.rows, plain.labels, plain.features, strict=True)
    }
    for row, label, each in zip(changed.rows, changed.labels, changed.features, strict=True):
        np.testing.assert_array_equal(each, features[rows[row], label])
    assert len(features) == len(changed.rows)


def test_a_part_that_proposes_nothing_is_known_as_such():
    cascade = Proposals(np.array([[1, -1], [-1, -1]]), np.array([[0.9, 0], [0, 0]], np.float32))
    words = Proposals(np.array([[2, 1], [0, -1]]), np.array([[-0.1, -3], [-1, -np.inf]], np.float32))
    pairs = candidate_pairs(cascade, [words], np.array([3, 0, 7]))
    assert list(zip(pairs.rows.tolist(), pairs.labels.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0)]
    features = dict(zip(FEATURES, pairs.features.T, strict=True))
    np.testing.assert_allclose(features["cascade"], [special.logit(0.9), special.logit(0.9), 0], rtol=1e-5)
    np.testing.assert_allclose(features["words"], [-3, -0.1, -1], rtol=1e-6)
    np.testing.assert_array_equal(features["not from cascade"], [0, 1, 1])
    np.testing.assert_array_equal(features["not from words"], [0, 0, 0])
    np.testing.assert_allclose(features["frequency"], np.log1p([0, 7, 3]))
    labels, logits = rank(pairs, np.array([1.0, 2.0, -np.inf]), 2, 3)
    assert labels.tolist() == [[2, 1, -1], [-1, -1, -1]]
    assert logits.tolist() == [[2, 1, -np.inf], [-np.inf] * 3]


def test_single_parts_rank_as_they_did_alone():
    cascade, words, _ = synthetic(2, 1, num_texts=50)
    pairs = candidate_pairs(cascade, [words], FREQUENCY)
    for way, part in (("cascade", cascade), ("words", words)):
        logits = cascade_alone(("words",)).score_by(way, pairs)
        np.testing.assert_array_equal(rank(pairs, logits, 50, 15)[0], part.labels)


@pytest.mark.parametrize("strengths", [(2, 2, 2, 2), (1, 0, 0, 3), (0, 2, 0, 2)])
def test_three_sources_are_combined_no_worse_than_the_best_part_on_other_texts(strengths):
    names = ("words", "neighbours", "names")
    cascade, *sources, true = synthetic(*strengths)
    chosen = choose_combination(candidate_pairs(cascade, sources, FREQUENCY), true, WEIGHTS, KS, sources=names)
    assert set(chosen.metrics) == set(scoring_methods(names)) == {"cascade", *names, "mean", "learnt"}
    cascade, *sources, true = synthetic(*strengths, seed=1)
    pairs = candidate_pairs(cascade, sources, FREQUENCY)
    alone = [ndcg(pairs, chosen.score_by(way, pairs), true) for way in ("cascade", *names)]
    assert ndcg(pairs, chosen.score(pairs), true) >= max(alone) - 0.5
    if min(strengths) > 0:
        assert ndcg(pairs, chosen.score(pairs), true) > max(alone) + 10


def test_each_way_of_a_single_part_ranks_by_it_alone_wherever_it_stands():
    cascade, *sources, _ = synthetic(1, 2, 1, num_texts=50)
    pairs, unlearnt = candidate_pairs(cascade, sources, FREQUENCY), cascade_alone(("neighbours", "names"))
    for way, part in zip(("cascade", "neighbours", "names"), (cascade, *sources), strict=True):
        np.testing.assert_array_equal(rank(pairs, unlearnt.score_by(way, pairs), 50, 15)[0], part.labels)
    swapped = candidate_pairs(cascade, sources[::-1], FREQUENCY)
    columns = {feature: number for number, feature in enumerate(feature_names(("names", "neighbours")))}
    for own, feature in zip(pairs.features.T, feature_names(("neighbours", "names")), strict=True):
        np.testing.assert_array_equal(swapped.features[:, columns[feature]], own)
    for way in ("cascade", "names", "mean"):
        found = cascade_alone(("names", "neighbours")).score_by(way, swapped)
        np.testing.assert_allclose(found, unlearnt.score_by(way, pairs), rtol=1e-6)


def test_the_regression_is_that_of_scikit_learn():
    cascade, *sources, true = synthetic(1, 2, 1, seed=4, num_texts=300)
    pairs = candidate_pairs(cascade, sources, FREQUENCY)
    is_true = np.asarray(true[pairs.rows, pairs.labels]).ravel() > 0
    weights, bias = fit_logistic(pairs.features, is_true)
    mean, scale = pairs.features.mean(0), pairs.features.std(0)
    oracle = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit((pairs.features - mean) / scale, is_true)
    expected = oracle.decision_function((pairs.features - mean) / scale)
    np.testing.assert_allclose(pairs.features @ weights + bias, expected, atol=0.02)


@pytest.mark.filterwarnings("error")
def test_where_validation_texts_have_nothing_to_learn_from_the_cascade_alone_ranks():
    cascade, words, true = synthetic(2, 2, num_texts=10)
    pairs = candidate_pairs(cascade, [words], FREQUENCY)
    none_true = sparse.csr_matrix(true.shape)
    chosen = choose_combination(pairs, none_true, WEIGHTS, KS, sources=("words",))
    assert chosen.way == "cascade"
    assert set(chosen.metrics) == set(scoring_methods(["words"]))


@pytest.mark.filterwarnings("error")
def test_one_validation_text_gives_finite_weights():
    cascade, words, true = synthetic(3, 3, num_texts=1)
    pairs = candidate_pairs(cascade, [words], FREQUENCY)
    chosen = choose_combination(pairs, true, WEIGHTS, KS, sources=("words",))
    assert np.isfinite([*chosen.weights, chosen.bias]).all()
    assert np.isfinite([value for each in chosen.metrics.values() for value in each.values()]).all()
