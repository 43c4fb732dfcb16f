"""Every label head ranks labels as a brute-force sort does, also for logits whose probabilities are 0 or 1 in float32.

Oracles: a sort in float64, and mpmath for the joint score (hypothesis draws logits).
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranked_heads import HEADS, SURE, Problem, drawn_problem, predict, predict_on_ranks, problems
from support.rankings import exact_joint, joint

from cxml.model.ranking import NO_KEY, joint_logit, probabilities, ranking_keys, scores_of
from cxml.optim import row_kernels
from cxml.parallel import run_workers

EXAMPLES = {"kernels": 25}  # in Triton's interpreter


def is_full(name):
    return "all labels" in name


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "level"])
def test_labels_are_ranked_as_by_brute_force(name, weighted):
    if name == "kernels":
        pytest.importorskip("triton")

    @settings(max_examples=EXAMPLES.get(name, 120))
    @given(problems(), st.integers(1, 12))
    def check(problem, k):
        head = HEADS[name](problem)  # some heads give every text the same logits
        found = predict(head, problem, k, weighted=weighted)
        problem.check(*found, k, weighted=weighted, scores_all=is_full(name))

    check()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("parent", [5.0, 300.0, -300.0])
def test_sure_and_hopeless_labels_keep_their_order(name, parent):
    if name == "kernels":
        pytest.importorskip("triton")
    own = np.array([17.5, 25, 19, 40, 100, 200, -100, -200], np.float32)
    problem = Problem(
        np.array([0, 4, 5, 6, 8]), np.stack([own, own]), np.array([[0, 1, 2, 3]] * 2),
        np.full((2, 4), parent, np.float32),
    )  # fmt: skip
    positions, logits = predict(HEADS[name](problem), problem, 8, weighted=True)
    assert positions.tolist() == [[5, 4, 3, 1, 2, 0, 6, 7]] * 2
    scores = probabilities(torch.from_numpy(logits)).numpy()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_rows_on_several_processes_are_ranked_as_by_brute_force():
    num_ranks = 3
    rng = np.random.default_rng(num_ranks)
    cases = []
    for number in range(60):
        sizes = rng.choice([1, 1, 1, 2, 5], size=rng.integers(1, 7))
        pool = [*SURE, *(-x for x in SURE), *rng.uniform(-1e4, 1e4, 4), *rng.normal(0, 5, 4)]
        problem = drawn_problem(rng, np.concatenate([[0], np.cumsum(sizes)]), pool, num_texts=num_ranks + 1)
        cases.append((problem, int(rng.integers(1, 9)), number % 2 == 0, number % 5 == 4))
    for (problem, k, weighted, scores_all), parts in zip(
        cases, run_workers(predict_on_ranks, (cases,), num_ranks), strict=True
    ):
        positions, logits = (np.zeros((num_ranks + 1, k)) for _ in range(2))
        for rank, (own_positions, own_logits) in enumerate(parts):
            positions[rank::num_ranks], logits[rank::num_ranks] = own_positions, own_logits
        problem.check(positions, logits, k, weighted=weighted, scores_all=scores_all)


FLOATS = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=300)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=20))
def test_keys_order_pairs_and_give_the_score_back_in_torch_as_in_compiled_code(pairs):
    scores, own = (torch.tensor(part, dtype=torch.float32) for part in zip(*pairs, strict=True))
    keys = ranking_keys(scores, own)
    assert torch.equal(scores_of(keys), scores)
    assert [row_kernels.ranking_key(np.float32(a), np.float32(b)) for a, b in pairs] == keys.tolist()
    assert sorted(range(len(pairs)), key=keys.tolist().__getitem__) == sorted(range(len(pairs)), key=pairs.__getitem__)
    assert (keys > NO_KEY).all()
    expected = joint_logit(scores, own)
    found = [row_kernels.joint_logit(np.float32(a), np.float32(b)) for a, b in pairs]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("own", "parent", "digits"),
    [(0, 0, 40), (17.5, 25, 40), (-3, 8, 40), (-40, -2, 60), (30, 30, 60), (100, 5, 120), (100, 200, 200),
     (0, 100, 200), (800, -800, 800), (-1e4, -1e4, 9000), (1e4, 1e4, 9000), (1e4, -1e4, 9000), (0.5, 1e4, 9000)],
)  # fmt: skip
def test_the_score_is_the_log_odds_of_the_product_of_both_probabilities(own, parent, digits):
    exact = exact_joint(own, parent, digits)
    found = joint_logit(torch.tensor([own, parent]).float(), torch.tensor([parent, own]).float())
    assert found.tolist() == pytest.approx([exact] * 2, rel=2e-7)
    assert joint(own, parent) == pytest.approx(exact, rel=1e-15)


def test_a_score_without_a_parent_is_the_labels_own():
    own = torch.tensor([-1e4, -3.5, 0, 17.5, 1e4])
    assert joint_logit(own, torch.full_like(own, torch.inf)).tolist() == own.tolist()


def test_a_place_without_a_node_has_no_score_and_comes_last():
    keys = torch.tensor([NO_KEY, int(ranking_keys(torch.tensor([-1e4]), torch.tensor([-1e4])))])
    assert scores_of(keys).tolist() == [-torch.inf, -1e4]
    assert keys[1] > keys[0]
    assert probabilities(scores_of(keys)).tolist() == [0, 0]
