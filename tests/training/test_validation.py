"""Validation texts in a real training: left out of the steps, and what evaluations on the way rest on."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.runs import make_encoder, prepare_with_tree, small_config, train_one_after_the_other

from cxml.checkpoint import model_url
from cxml.data import ShardedDataset, data_url, train_texts, validation_texts
from cxml.metrics import metric_sums
from cxml.parallel import run_workers
from cxml.prediction import Predictor


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    parts = {"epochs": 1, "evaluate_every": 1, "validation_fraction": 0.25}
    config = small_config(folder, make_encoder(folder / "encoder"), train=parts)
    prepare_with_tree(config)
    run_workers(train_one_after_the_other, ([config],), 1)
    return config


def test_an_epoch_visits_the_texts_that_are_not_held_out(trained):
    records = [json.loads(line) for line in Path(trained.output, "metrics.jsonl").read_text().splitlines()]
    kept = len(train_texts(data_url(trained), 0.25))
    assert kept < len(ShardedDataset(data_url(trained), "train"))
    assert max(record["step"] for record in records if record["kind"] == "train") == -(-kept // 32)


def test_evaluations_on_the_way_are_those_of_the_validation_texts(trained):
    held = validation_texts(data_url(trained), 0.25)
    predictor = Predictor.from_checkpoint(model_url(trained))
    predicted = predictor.predict_tokens(held.gather(np.arange(len(held)))[0], 5).labels
    expected = metric_sums(predicted, held.labels_csr(), (1, 3, 5)).result()
    lines = Path(trained.output, "metrics.jsonl").read_text().splitlines()
    (record,) = (record for record in map(json.loads, lines) if record["kind"] == "evaluate")
    assert record["split"] == "validation"
    assert {name: record["levels"][-1][name] for name in expected} == pytest.approx(expected, abs=1e-6)
