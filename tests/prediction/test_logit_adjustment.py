"""Logit adjustment: each label's logit falls by its share of the log odds, in predictions, exports and evaluations.

Oracle: log odds counted text by text.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import cxml
from cxml.commands import evaluate, export
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.data import ShardedDataset
from cxml.errors import ConfigError
from cxml.metrics import metric_sums

STRENGTH = 0.5


@pytest.fixture(scope="module")
def log_odds(run):
    """Of each label among the train texts, counted text by text."""
    truth = ShardedDataset(f"{run[0].output}/data", "train").labels_csr().toarray() > 0
    share = (truth.sum(0) + 0.5) / (len(truth) + 1)
    return np.log(share) - np.log1p(-share)


@pytest.fixture(scope="module")
def adjusted(run):
    return cxml.Predictor.from_checkpoint(run[0].output, logit_adjustment=STRENGTH)


def logits(predictor, texts):
    """The logit of every label that is predicted, by text and label."""
    explained = predictor.explain(texts, k=len(predictor.names))
    return {
        (row, each.label): np.log(each.probability) - np.log1p(-each.probability)
        for row, labels in enumerate(explained)
        for each in labels
    }


def test_each_labels_logit_falls_by_its_part_of_the_log_odds(run, lines, adjusted, log_odds):
    before = logits(cxml.Predictor.from_checkpoint(run[0].output), lines[:5])
    after = logits(adjusted, lines[:5])
    assert before.keys() == after.keys()
    falls = [before[pair] - after[pair] for pair in before]
    expected = [STRENGTH * log_odds[label] for _, label in before]
    np.testing.assert_allclose(falls, expected, atol=2e-3)
    assert np.ptp(expected) > 0.5


def test_an_export_carries_the_adjustment_and_says_so(run, lines, adjusted, tmp_path):
    folder = tmp_path / "exported"
    assert export.main([run[0].output, str(folder), "--logit-adjustment", str(STRENGTH)]) == 0
    found, expected = (each.predict(lines, 5) for each in (cxml.Predictor.from_pretrained(str(folder)), adjusted))
    np.testing.assert_array_equal(found.labels, expected.labels)
    card = (folder / "README.md").read_text()
    assert "0.5 of each label's log odds" in card
    assert "Metrics of the run, with label rows and ranking as trained." in card


def test_an_exported_model_refuses_it_and_names_the_way(run, tmp_path):
    cxml.Predictor.from_checkpoint(run[0].output).save_pretrained(str(tmp_path / "exported"))
    with pytest.raises(ConfigError, match=r"not an exported one.*--logit-adjustment"):
        cxml.Predictor.from_checkpoint(str(tmp_path / "exported"), logit_adjustment=0.1)


def test_evaluation_shows_what_it_does(run, adjusted, tmp_path):
    config, report = run
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(config)))
    words = ["--config", str(file), "--logit-adjustments", str(STRENGTH), "--resamples", "10"]
    assert evaluate.main(words) == 0
    systems = json.loads((Path(config.output) / "comparison.json").read_text())["systems"]
    test = ShardedDataset(f"{config.output}/data", "test")
    predicted = adjusted.predict_tokens(test.gather(np.arange(len(test)))[0], 5).labels
    expected = metric_sums(predicted, test.labels_csr(), (1, 3, 5)).result()
    found = systems["CascadeXML, logits adjusted by 0.5"]["metrics"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["P@1"] != report["levels"][-1]["P@1"]
