"""Similar labels and texts.

Oracle: a full search over all cosines in NumPy.
"""

import numpy as np
import pytest

import cxml
from cxml.commands import similar
from cxml.data import ShardedDataset
from cxml.errors import ConfigError
from cxml.prediction.similarity import Similarity, label_id, label_similarity, text_similarity


@pytest.fixture(scope="module")
def predictor(run):
    return cxml.Predictor.from_checkpoint(run[0].output)


def cosines(vectors, others):
    unit = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-30) for each in (vectors, others)]
    return unit[0] @ unit[1].T


def test_the_nearest_are_those_of_a_full_search():
    generator = np.random.default_rng(0)
    vectors, queries = generator.normal(size=(300, 12)), generator.normal(size=(7, 12))
    found = Similarity(vectors).nearest(queries, 9)
    expected = cosines(queries, vectors)
    np.testing.assert_array_equal(found.ids, np.argsort(-expected, axis=1)[:, :9])
    np.testing.assert_allclose(found.cosines, -np.sort(-expected, axis=1)[:, :9], atol=1e-5)


def test_a_vector_is_not_its_own_neighbour_even_if_it_has_twins():
    vectors = np.random.default_rng(1).normal(size=(20, 5))
    vectors[[3, 8, 15]] = vectors[3]
    found = Similarity(vectors).nearest_of(np.arange(20), 2)
    assert (found.ids != np.arange(20)[:, None]).all()
    for row, others in ((3, {8, 15}), (8, {3, 15}), (15, {3, 8})):
        assert set(found.ids[row].tolist()) == others


def test_pairs_are_all_that_are_alike_enough():
    vectors = np.random.default_rng(2).normal(size=(150, 3))
    found = list(Similarity(vectors).pairs_above(0.97))
    expected = np.argwhere(np.triu(cosines(vectors, vectors) >= 0.97, 1))
    assert [pair[:2] for pair in found] == [tuple(pair) for pair in expected.tolist()]


def test_labels_and_texts_are_numbered_as_in_the_data(run, predictor):
    dataset = ShardedDataset(f"{run[0].output}/data", "train")
    texts = text_similarity(predictor, dataset)
    wanted = np.array([4, 90, 200])
    found = texts.nearest(predictor.embed(dataset.texts(wanted)), 1)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-4)
    order = predictor.parts.tree.label_order
    expected = cosines(predictor.parts.rows.weight, predictor.parts.rows.weight)
    nearest = label_similarity(predictor).nearest_of(order[[0, 5]].astype(np.int64), 1)
    np.fill_diagonal(expected, -1)
    np.testing.assert_allclose(nearest.cosines[:, 0], expected[[0, 5]].max(1), atol=1e-5)


def test_the_command_prints_the_neighbours_of_a_label(run, predictor, capsys):
    assert similar.main([run[0].output, "--label", predictor.names[7], "--k", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = label_similarity(predictor).nearest_of(np.array([7]), 3)
    assert [other for _, other in lines] == [predictor.names[label] for label in expected.ids[0]]
    assert [float(cosine) for cosine, _ in lines] == pytest.approx(expected.cosines[0].tolist(), abs=1e-4)


def test_the_command_finds_a_train_text_itself(run, capsys):
    text = ShardedDataset(f"{run[0].output}/data", "train").texts(np.array([11]))[0]
    assert similar.main([run[0].output, "--text", text, "--k", "2"]) == 0
    first = capsys.readouterr().out.splitlines()[0].split("\t")
    assert float(first[0]) > 0.999


def test_the_command_prints_all_pairs_of_train_texts_above_a_cosine(run, predictor, capsys):
    assert similar.main([run[0].output, "--duplicates", "0.999"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    dataset = ShardedDataset(f"{run[0].output}/data", "train")
    features = predictor.embed(dataset.texts(np.arange(len(dataset))))
    above = np.triu(cosines(features, features), 1)
    found = {(int(one), int(other)) for one, other, *_ in lines}
    assert {tuple(pair) for pair in np.argwhere(above > 0.999 + 1e-5).tolist()} <= found
    assert found <= {tuple(pair) for pair in np.argwhere(above > 0.999 - 1e-5).tolist()}
    assert found, "a chapter has texts that are nearly alike"


@pytest.mark.parametrize("arguments", [[], ["--label", "a", "--text", "b"], ["--text", "a", "--k", "0"]])
def test_impossible_questions_are_refused(run, capsys, arguments):
    assert similar.main([run[0].output, *arguments]) == 2
    assert "ConfigError" in capsys.readouterr().err


def test_an_unknown_label_gets_a_suggestion(predictor):
    part = predictor.names[0][1:]
    with pytest.raises(ConfigError, match="Did you mean"):
        label_id(predictor, part)
