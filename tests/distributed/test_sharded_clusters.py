"""A cascade whose cluster and label levels are sharded over processes trains as one of ordinary parameters.

Oracle: that cascade with autograd and plain SGD on one process.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from support.sharded_cascades import SGD, make_problem, predict, train_plain, train_sharded

from cxml.config import HeadConfig
from cxml.parallel import run_workers

TREES = {
    "uneven": (3, 11, 40, 120),
    "a level of one node": (1, 6, 30),
    "more ranks than leaves": (2, 3, 9),
    "no clusters": (50,),
}
RANKS = {"one rank": (5,), "two ranks": (3, 2), "three ranks": (2, 1, 3), "four ranks": (1, 3, 2, 2)}
CASES = {
    "all levels": (SGD, 1),
    "the last level of clusters": (dataclasses.replace(SGD, shard_from=20), 1),
    "clipped far above": (dataclasses.replace(SGD, clip_global_norm=1e6), 1),
    "sent as between accelerators": (SGD, 1, True),
    "all labels": (dataclasses.replace(SGD, candidates="all"), 1),
}
COPIES = {
    "two replicas": (dataclasses.replace(SGD, group_size=2), 1),
    "two replicas, sent as between accelerators": (dataclasses.replace(SGD, group_size=2), 1, True),
}
COPIES_OF_ONE = {
    "a copy on each rank": (dataclasses.replace(SGD, group_size=1), 1),
    "a copy on each rank, as on accelerators": (dataclasses.replace(SGD, group_size=1), 1, True),
    "all labels, a copy on each rank": (dataclasses.replace(SGD, group_size=1, candidates="all"), 1),
    "all labels, a copy on each rank, as on accelerators": (
        dataclasses.replace(SGD, group_size=1, candidates="all"), 1, True,
    ),
}  # fmt: skip


def cases_of(counts):
    return CASES | {2: COPIES_OF_ONE, 4: COPIES}.get(len(counts), {})


@functools.cache
def trained_on(counts):
    """By tree the problem and by case what the ranks gathered, all in one group of processes."""
    problems = {tree: make_problem(7, sizes, RANKS[counts]) for tree, sizes in TREES.items()}
    cases = cases_of(RANKS[counts])
    jobs = [(problem, *case) for problem in problems.values() for case in cases.values()]
    gathered = iter(run_workers(train_sharded, (jobs,), len(RANKS[counts])))
    return {tree: (problem, {case: next(gathered) for case in cases}) for tree, problem in problems.items()}


def trained(tree, counts):
    return trained_on(counts)[tree]


@pytest.mark.parametrize("counts", RANKS)
@pytest.mark.parametrize("tree", TREES)
def test_losses_gradients_rows_and_shortlists_equal_those_of_ordinary_parameters(tree, counts):
    problem, by_case = trained(tree, counts)
    model, seen = train_plain(problem)
    heads = [*model.cluster_heads, *model.label_head.blocks]
    num_ranks = len(RANKS[counts])
    for case, gathered in by_case.items():
        if case.startswith("all labels"):
            continue
        for rank, (results, whole, found) in enumerate(gathered):
            for step, (losses, gradients) in enumerate(results):
                expected_losses, expected_gradients = seen[step * num_ranks + rank]
                np.testing.assert_allclose(losses, expected_losses, rtol=1e-4, atol=1e-5, err_msg=case)
                for gradient, expected in zip(gradients, expected_gradients, strict=True):
                    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5, err_msg=case)
            for (weight, bias), head in zip(whole, heads[len(heads) - len(whole) :], strict=True):
                np.testing.assert_allclose(weight, head.weight.detach(), rtol=1e-4, atol=1e-5, err_msg=case)
                np.testing.assert_allclose(bias, head.bias.detach(), rtol=1e-4, atol=1e-5, err_msg=case)
            for level, expected in zip(found, predict(model, problem, rank), strict=True):
                assert level[0].tolist() == expected[0].tolist(), case
                np.testing.assert_allclose(level[1], expected[1], rtol=1e-3, atol=1e-4, err_msg=case)
                if expected[2] is not None:
                    assert [set(row) - {-1} for row in level[2].tolist()] == [
                        set(row) - {-1} for row in expected[2].tolist()
                    ], case


@pytest.mark.parametrize("counts", ["one rank", "three ranks"])
def test_clusters_learn_alike_whatever_candidates_the_labels_have(counts):
    _, by_case = trained("uneven", counts)
    shortlist, everything = by_case["all levels"], by_case["all labels"]
    for (_, own, _), (_, other, _) in zip(shortlist, everything, strict=True):
        for (weight, bias), (expected_weight, expected_bias) in zip(other[:-1], own[:-1], strict=True):
            np.testing.assert_array_equal(weight, expected_weight)
            np.testing.assert_array_equal(bias, expected_bias)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("case", [case for case in COPIES_OF_ONE if case.startswith("all labels")])
def test_scored_on_all_labels_copies_learn_what_shared_rows_learn(case, tree):
    _, by_case = trained(tree, "two ranks")
    for (results, whole, _), (expected_results, expected_whole, _) in zip(
        by_case[case], by_case["all labels"], strict=True
    ):
        for (losses, _), (expected, _) in zip(results, expected_results, strict=True):
            np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
        for found, expected in zip(itertools.chain(*whole), itertools.chain(*expected_whole), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_adamw_keeps_the_same_rows_on_one_rank_and_on_three():
    adamw = HeadConfig(shard_from=1)
    whole = []
    for counts in ((6,), (2, 1, 3)):
        problem = make_problem(3, TREES["uneven"], (6,))
        cuts = np.cumsum((0, *counts))
        parts = list(itertools.pairwise(cuts))
        problem.features = [[[values[a:b] for values in step[0]] for a, b in parts] for step in problem.features]
        problem.labels = [[step[0][a:b] for a, b in parts] for step in problem.labels]
        (gathered,) = run_workers(train_sharded, ([(problem, adamw, 1)],), len(counts))
        whole.append(gathered[0][1])
    for (weight, bias), (expected_weight, expected_bias) in zip(whole[1], whole[0], strict=True):
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(bias, expected_bias, rtol=1e-3, atol=1e-4)
