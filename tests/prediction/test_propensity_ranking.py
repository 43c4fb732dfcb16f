"""Ranking by score times a power of the inverse propensity, in predictions, exports and evaluations.

Oracles: a plain sort of all labels, and a brute-force ranking in float64 (hypothesis).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranked_heads import LOGITS
from support.rankings import check_ranking, joint

import cxml
from cxml.commands import evaluate, export
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.data import ShardedDataset
from cxml.errors import ConfigError
from cxml.metrics import metric_sums
from cxml.prediction.rare_labels import weigh_logits
from cxml.training.evaluation import propensity_weights

POWER = 0.5


@pytest.fixture(scope="module")
def plain(run):
    return cxml.Predictor.from_checkpoint(run[0].output)


@pytest.fixture(scope="module")
def ranked(run):
    return cxml.Predictor.from_checkpoint(run[0].output, propensity_ranking=POWER)


@pytest.fixture(scope="module")
def weights(run):
    """Of each label, at most 1."""
    inverse = propensity_weights(run[0])
    return (inverse / inverse.max()) ** POWER


def test_labels_come_by_score_times_the_power_of_their_inverse_propensity(plain, ranked, weights, lines):
    every = plain.predict(lines, len(plain.names))
    found = ranked.predict(lines, 5)
    changed = 0
    for row in range(len(lines)):
        there = every.labels[row] >= 0
        weighted = every.scores[row, there] * weights[every.labels[row, there]]
        order = np.argsort(-weighted, kind="stable")[:5]
        np.testing.assert_allclose(found.scores[row], weighted[order], rtol=1e-5)
        np.testing.assert_array_equal(found.labels[row], every.labels[row, there][order])
        changed += not np.array_equal(found.labels[row], every.labels[row, :5])
    assert changed > len(lines) / 4
    assert found.scores.max() <= 1


def test_an_explanation_ranks_alike_and_keeps_the_probabilities(plain, ranked, lines):
    predicted = ranked.predict(lines[:5], 5)
    before = [{each.label: each.probability for each in labels} for labels in plain.explain(lines[:5], 100)]
    for row, labels in enumerate(ranked.explain(lines[:5], 5)):
        assert [each.label for each in labels] == predicted.labels[row].tolist()
        np.testing.assert_allclose([each.score for each in labels], predicted.scores[row], rtol=1e-5)
        assert [each.probability for each in labels] == pytest.approx([before[row][each.label] for each in labels])


def test_excluded_labels_make_room_for_the_next(ranked, lines):
    first = ranked.predict(lines[:3], 6)
    found = ranked.predict(lines[:3], 5, excluded={row: [int(first.labels[row, 0])] for row in range(3)})
    np.testing.assert_array_equal(found.labels, first.labels[:, 1:])


def test_places_without_a_label_stay_last():
    labels = np.array([[0, 1, -1], [-1, -1, -1]])
    logits = np.array([[np.log(9), 0, -np.inf], [-np.inf] * 3], np.float32)  # of 0.9 and 0.5
    weighted, order = weigh_logits(labels, logits, np.array([0.1, 1], np.float32))
    assert order.tolist() == [[1, 0, 2], [0, 1, 2]]
    np.testing.assert_allclose(1 / (1 + np.exp(-weighted)), [[0.09, 0.5, 0], [0, 0, 0]], rtol=1e-6)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(LOGITS, st.sampled_from([1.0, 0.999999, 0.5, 0.1, 1e-3, 1e-6])), min_size=1, max_size=12),
)
def test_sure_and_hopeless_labels_are_weighed_as_by_brute_force(pairs):
    logits, weights = (np.array(part, np.float32) for part in zip(*sorted(pairs, reverse=True), strict=True))
    weighted, order = weigh_logits(np.arange(len(pairs))[None], logits[None], weights)
    with np.errstate(divide="ignore"):
        of_weights = np.log(weights.astype(np.float64)) - np.log1p(-weights.astype(np.float64))
    check_ranking(order[0], weighted[0, order[0]], joint(logits, of_weights), logits, len(pairs))


def test_a_restricted_model_ranks_its_labels_alike(ranked, weights, lines, tmp_path):
    some = list(range(0, len(ranked.names), 3))
    restricted = ranked.restricted_to(some)
    found = restricted.predict(lines[:3], 5)
    assert set(found.labels.ravel().tolist()) <= {*some, -1}
    restricted.save_pretrained(str(tmp_path / "some"))
    again = cxml.Predictor.from_pretrained(str(tmp_path / "some"))
    np.testing.assert_allclose(again.parts.label_weights, weights[some], rtol=1e-6)
    np.testing.assert_allclose(again.predict(lines[:3], 5).scores, found.scores, rtol=1e-5)


def test_an_export_carries_the_weights_and_says_so(run, ranked, lines, tmp_path):
    folder = tmp_path / "exported"
    assert export.main([run[0].output, str(folder), "--propensity-ranking", str(POWER)]) == 0
    found, expected = (each.predict(lines, 5) for each in (cxml.Predictor.from_pretrained(str(folder)), ranked))
    np.testing.assert_array_equal(found.labels, expected.labels)
    card = (folder / "README.md").read_text()
    assert "inverse propensity to the power of 0.5" in card
    assert "Metrics of the run, with label rows and ranking as trained." in card


def test_an_exported_model_refuses_it_and_names_the_way(plain, tmp_path):
    plain.save_pretrained(str(tmp_path / "exported"))
    with pytest.raises(ConfigError, match=r"not an exported one.*--propensity-ranking"):
        cxml.Predictor.from_checkpoint(str(tmp_path / "exported"), propensity_ranking=1)


def test_evaluation_shows_what_it_does(run, tmp_path):
    config, _ = run
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(config)))
    words = ["--config", str(file), "--propensity-rankings", "1", "--resamples", "10"]
    assert evaluate.main(words) == 0
    systems = json.loads((Path(config.output) / "comparison.json").read_text())["systems"]
    test = ShardedDataset(f"{config.output}/data", "test")
    model = cxml.Predictor.from_checkpoint(config.output, propensity_ranking=1)
    predicted = model.predict_tokens(test.gather(np.arange(len(test)))[0], 5).labels
    expected = metric_sums(predicted, test.labels_csr(), (1, 3, 5), propensity_weights(config)).result()
    found = systems["CascadeXML, scores times propensity^-1"]["metrics"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    before = systems["CascadeXML"]["metrics"]
    assert any(found[f"PSP@{k}"] > before[f"PSP@{k}"] for k in (1, 3, 5))
