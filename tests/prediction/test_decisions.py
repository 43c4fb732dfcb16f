"""Thresholds and calibration: chosen on a run's validation texts, saved with it, and used by every way to predict.

Oracles: the metrics functions applied to the validation and test texts, and predictions without a threshold.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from support.runs import make_encoder, small_config
from support.small_runs import run_all

import cxml
from cxml.batch_prediction import PredictionJob, predict_file
from cxml.checkpoint import list_checkpoints
from cxml.commands import export, predict
from cxml.config import config_to_dict
from cxml.data import ShardedDataset, data_url, read_label_table, train_texts, validation_texts
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats import TextSource
from cxml.metrics import ScoredPairs, Thresholds, calibration, label_counts, metric_sums, micro_f1_threshold
from cxml.parallel import run_workers
from cxml.prediction import model_identity, write_run_decisions
from cxml.prediction.decisions import DECISIONS_FILE, decisions_as_json, parse_decisions
from cxml.serving.batching import PredictRequest, answer_together


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """The config of a run with validation texts, its report, and its predictor."""
    folder = tmp_path_factory.mktemp("decisions")
    config = small_config(
        folder / "out", make_encoder(folder / "encoder"),
        train={"epochs": 2, "validation_fraction": 0.3, "evaluate_every": 2},
    )  # fmt: skip
    faster = dataclasses.replace(config.optim, encoder_lr=2e-3, classifier_lr=1e-2)
    checkpoint = dataclasses.replace(config.checkpoint, every_minutes=0.0, every_steps=15, keep_last=1)
    wanted = dataclasses.replace(config.evaluate, wanted_precision=0.6)
    config = dataclasses.replace(config, optim=faster, checkpoint=checkpoint, evaluate=wanted)
    report = run_workers(run_all, ({"run": config_to_dict(config)},), 1)["run"]
    assert "error" not in report, report["error"]
    return config, report, cxml.Predictor.from_checkpoint(config.output)


def ranked(predictor, texts, k=100):
    return predictor.predict_tokens(texts.gather(np.arange(len(texts)))[0], k)


def records(config, kind):
    lines = Path(config.output, "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_training_visits_the_texts_that_are_not_held_out(decided):
    config, _, _ = decided
    kept = len(train_texts(data_url(config), 0.3))
    assert kept < len(ShardedDataset(data_url(config), "train"))
    assert max(record["step"] for record in records(config, "train")) == 2 * -(-kept // config.train.batch_size)


def test_evaluations_on_the_way_are_those_of_the_validation_texts(decided):
    config, _, predictor = decided
    texts = validation_texts(data_url(config), 0.3)
    expected = metric_sums(ranked(predictor, texts, 5).labels, texts.labels_csr(), (1, 3, 5)).result()
    (record,) = records(config, "evaluate")
    assert record["split"] == "validation"
    assert {name: record["levels"][-1][name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_threshold_of_micro_f1_is_the_best_on_the_validation_texts(decided):
    config, report, predictor = decided
    texts = validation_texts(data_url(config), 0.3)
    found = ranked(predictor, texts)
    best = micro_f1_threshold(ScoredPairs.of(found.labels, found.scores, texts.labels_csr()))
    kept = predictor.parts.decisions
    assert set(kept.thresholds) == {"micro-f1", "macro-f1", "precision"}
    assert kept.num_texts == report["decisions"]["texts"] == len(texts)
    assert kept.thresholds["micro-f1"].shared == pytest.approx(best.shared, abs=1e-6)


def test_the_threshold_of_a_wanted_precision_reaches_it_on_the_validation_texts(decided):
    config, _, predictor = decided
    texts = validation_texts(data_url(config), 0.3)
    tokens = texts.gather(np.arange(len(texts)))[0]
    precise = predictor.predict_tokens(tokens, 100, threshold="precision").labels
    assert label_counts(precise, texts.labels_csr()).metrics()["micro-P"] >= 60 - 1e-6


def test_reported_metrics_are_those_of_the_labels_that_a_threshold_predicts(decided):
    config, report, predictor = decided
    test = ShardedDataset(data_url(config), "test")
    tokens = test.gather(np.arange(len(test)))[0]
    for name, expected in report["decisions"]["metrics"].items():
        threshold = float(name) if name == "0.5" else name
        predicted = predictor.predict_tokens(tokens, 100, threshold=threshold).labels
        counts = label_counts(predicted, test.labels_csr())
        assert counts.metrics() == pytest.approx({key: expected[key] for key in counts.metrics()}, abs=1e-6), name
        assert expected["labels per text"] == pytest.approx((predicted >= 0).sum() / len(test))
    metrics = report["decisions"]["metrics"]
    assert metrics["micro-f1"]["micro-F1"] >= metrics["0.5"]["micro-F1"]


def test_groups_of_labels_are_cut_by_train_texts_and_add_up(decided):
    config, report, _ = decided
    groups = report["label_groups"]["groups"]
    frequency = read_label_table(data_url(config)).frequency
    assert groups["frequent"]["num_labels"] == (frequency > 50).sum()
    assert groups["few"]["num_labels"] == ((frequency > 0) & (frequency <= 50)).sum()
    parts = [group for name, group in groups.items() if name != "all"]
    for field in ("num_labels", "num_true", "precision", "psp"):
        assert sum(group[field] for group in parts) == pytest.approx(groups["all"][field])
    assert groups["all"]["precision"] == pytest.approx(report["levels"][-1]["P@5"])
    assert groups["all"]["RP@5"] == pytest.approx(report["levels"][-1]["RP@5"])


def test_a_threshold_keeps_the_labels_that_reach_it_and_k_bounds_them(decided, lines_of):
    _, _, predictor = decided
    best = predictor.predict(lines_of, 20)
    for k, threshold in ((20, 0.05), (2, 0.05), (20, 1.0), (20, 0.0)):
        found = predictor.predict(lines_of, k, threshold=threshold)
        for row in range(len(lines_of)):
            assert found[row] == [label for label in best[row] if label.score >= threshold][:k]


@pytest.fixture(scope="module")
def lines_of(decided):
    test = ShardedDataset(data_url(decided[0]), "test")
    return test.texts(np.arange(12))


def test_explained_labels_and_served_ones_are_the_predicted_ones(decided, lines_of):
    _, _, predictor = decided
    expected = predictor.predict(lines_of, 7, threshold="macro-f1")
    explained = predictor.explain(lines_of, 7, threshold="macro-f1")
    asked = [
        PredictRequest(lines_of, 7, False, "macro-f1"),
        PredictRequest(lines_of, 3, False, 0.2),
        PredictRequest(lines_of, 7, True, "macro-f1"),
    ]
    served = [json.loads(answer)["predictions"] for answer in answer_together(predictor, asked)]
    for row in range(len(lines_of)):
        names = [label.name for label in expected[row]]
        assert [label.name for label in explained[row]] == names
        assert [label["name"] for label in served[0][row]] == [label["name"] for label in served[2][row]] == names
        assert all(label["score"] >= 0.2 for label in served[1][row])


@pytest.fixture(scope="module")
def calibrated(decided):
    return cxml.Predictor.from_checkpoint(decided[0].output, calibrated=True)


def test_calibrated_scores_keep_the_order_and_are_nearer_to_frequencies(decided, calibrated):
    config, report, predictor = decided
    test = ShardedDataset(data_url(config), "test")
    plain, probable = ranked(predictor, test, 5), ranked(calibrated, test, 5)
    np.testing.assert_array_equal(plain.labels, probable.labels)
    assert (np.diff(probable.scores, axis=1) <= 0).all()
    rows, places = np.nonzero(plain.labels >= 0)
    errors = {
        name: calibration(
            sparse.csr_matrix((each.scores[rows, places], (rows, plain.labels[rows, places])), test.labels_csr().shape),
            test.labels_csr(),
        )[1]
        for name, each in (("scores", plain), ("probabilities", probable))
    }
    assert report["calibrated"] == pytest.approx(errors, abs=1e-6)
    assert errors["probabilities"] < errors["scores"]


def test_a_named_threshold_chooses_the_same_labels_calibrated_or_not(decided, calibrated):
    config, _, predictor = decided
    test = ShardedDataset(data_url(config), "test")
    tokens = test.gather(np.arange(len(test)))[0]
    chosen = [each.predict_tokens(tokens, 50, threshold="micro-f1").labels for each in (predictor, calibrated)]
    assert (chosen[0] >= 0).any()
    np.testing.assert_array_equal(*chosen)


def test_a_threshold_by_number_is_held_to_calibrated_scores(decided, calibrated):
    test = ShardedDataset(data_url(decided[0]), "test")
    tokens = test.gather(np.arange(len(test)))[0]
    every, found = calibrated.predict_tokens(tokens, 50), calibrated.predict_tokens(tokens, 50, threshold=0.5)
    assert (found.labels >= 0).any()
    np.testing.assert_array_equal(found.labels >= 0, every.scores >= 0.5)


def test_an_exported_folder_decides_alike_and_some_labels_keep_their_thresholds(decided, lines_of, tmp_path):
    _, _, predictor = decided
    predictor.save_pretrained(tmp_path / "exported")
    exported = cxml.Predictor.from_pretrained(tmp_path / "exported", calibrated=True)
    restricted = predictor.restricted_to(range(0, len(predictor.names), 2))
    restricted.save_pretrained(tmp_path / "restricted")
    smaller = cxml.Predictor.from_pretrained(tmp_path / "restricted")
    for name in ("micro-f1", "macro-f1", "precision"):
        expected = predictor.predict(lines_of, 9, threshold=name).labels
        np.testing.assert_array_equal(exported.predict(lines_of, 9, threshold=name).labels, expected)
        found = smaller.predict(lines_of, 9, threshold=name)
        for row, of_whole in enumerate(
            restricted.predict(lines_of, 9, threshold=name)[each] for each in range(len(lines_of))
        ):
            assert [label.name for label in found[row]] == [label.name for label in of_whole]


@pytest.mark.parametrize(
    ("options", "end"),
    [([], "with the thresholds micro-f1, macro-f1, precision"), (["--logit-adjustment", "0.1"], "without thresholds")],
)
def test_the_export_command_says_whether_the_folder_has_thresholds(decided, tmp_path, capsys, options, end):
    assert export.main([decided[0].output, str(tmp_path / "exported"), *options]) == 0
    assert f"exported, {end}" in capsys.readouterr().out


def test_the_command_takes_thresholds_by_number_and_name(decided, lines_of, tmp_path, capsysbinary):
    config, _, predictor = decided
    (tmp_path / "texts.txt").write_text("".join(" ".join(text.split()) + "\n" for text in lines_of))
    for threshold in ("micro-f1", "0.3"):
        arguments = [config.output, str(tmp_path / "texts.txt"), "--k", "30", "--threshold", threshold]
        assert predict.main([*arguments, "--precision", "fp32"]) == 0
        rows = [json.loads(line)["labels"] for line in capsysbinary.readouterr().out.splitlines()]
        given = threshold if threshold == "micro-f1" else float(threshold)
        expected = predictor.predict([" ".join(text.split()) for text in lines_of], 30, threshold=given)
        assert [[label["name"] for label in row] for row in rows] == [
            [label.name for label in expected[row]] for row in range(len(lines_of))
        ]


def test_parts_of_a_file_are_not_mixed_with_those_of_thresholds_chosen_before(decided, tmp_path):
    config, _, predictor = decided
    (tmp_path / "texts.txt").write_text("a text\n")
    named, by_number = (
        PredictionJob(
            model=config.output, source=TextSource(url=str(tmp_path / "texts.txt")), threshold=threshold,
            output=str(tmp_path / str(threshold)),
        )
        for threshold in ("micro-f1", 0.3)
    )  # fmt: skip
    file = Path(config.output, DECISIONS_FILE)
    before = file.read_bytes()
    for job in (named, by_number):
        predict_file(job)
    chosen_again = dataclasses.replace(predictor.parts.decisions, thresholds={"micro-f1": Thresholds(0.9)})
    try:
        write_run_decisions(config.output, model_identity(config.output), chosen_again)
        assert predict_file(by_number) == 1
        with pytest.raises(StaleArtefactError, match="another model, input or setting"):
            predict_file(named)
    finally:
        file.write_bytes(before)


def test_the_command_refuses_an_unknown_threshold_with_the_known_ones(decided, tmp_path, capsysbinary):
    (tmp_path / "texts.txt").write_text("a text\n")
    out = tmp_path / "out"
    words = [decided[0].output, str(tmp_path / "texts.txt"), "--output", str(out), "--threshold", "best"]
    assert predict.main(words) == 2
    assert b"micro-f1" in capsysbinary.readouterr().err
    assert not list(out.rglob("*.json*"))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, True, float("nan"), "f2", ["micro-f1"]])
def test_impossible_thresholds_are_refused(decided, threshold):
    with pytest.raises(ConfigError, match="threshold"):
        decided[2].predict(["a text"], threshold=threshold)


def test_what_was_chosen_for_other_scores_is_not_used(decided):
    """A checkpoint, and models whose scores are changed; each says how thresholds come to be."""
    config, _, _ = decided
    checkpoint = list_checkpoints(f"{config.output}/checkpoints")[0].url
    for url, options in (
        (checkpoint, {}), (config.output, {"logit_adjustment": 0.2}), (config.output, {"propensity_ranking": 0.1})
    ):  # fmt: skip
        other = cxml.Predictor.from_checkpoint(url, **options)
        with pytest.raises(ConfigError, match="validation_fraction"):
            other.predict(["a text"], threshold="micro-f1")
        with pytest.raises(ConfigError, match="validation_fraction"):
            cxml.Predictor.from_checkpoint(url, calibrated=True, **options)


def test_decisions_read_back_from_their_file_as_they_were(decided):
    config, _, predictor = decided
    kept, num_labels = predictor.parts.decisions, len(predictor.names)
    content = decisions_as_json(kept)
    again, _ = parse_decisions(content, "file", num_labels, "Do it again.")
    labels = np.arange(num_labels)
    for name, each in kept.thresholds.items():
        np.testing.assert_array_equal(again.thresholds[name].of(labels), each.of(labels))
    np.testing.assert_array_equal(again.calibration(labels / num_labels), kept.calibration(labels / num_labels))
    assert json.loads(Path(config.output, DECISIONS_FILE).read_text())["model"]


@pytest.mark.parametrize("change", [
    {"version": 2}, {"texts": "3"}, {"thresholds": {"micro-f1": {"shared": 2.0, "labels": [], "own": []}}},
    {"thresholds": {"micro-f1": {"shared": 0.5, "labels": [10**6], "own": [0.5]}}},
    {"thresholds": {"micro-f1": {"shared": 0.5, "labels": [1, 1], "own": [0.5, 0.5]}}},
    {"calibration": {"scores": [0.5, 0.1], "shares": [0.1, 0.2]}}, {"calibration": {"scores": [0.5], "shares": []}},
])  # fmt: skip
def test_broken_decisions_are_refused(decided, change):
    predictor = decided[2]
    content = {**json.loads(decisions_as_json(predictor.parts.decisions)), **change}
    with pytest.raises(DataError, match="Do it again"):
        parse_decisions(json.dumps(content).encode(), "file", len(predictor.names), "Do it again.")
