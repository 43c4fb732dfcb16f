"""A small real run with all sources: every way to predict gives the same labels; lost or damaged evidence is handled.

Oracles: the scores of the run's own evaluation, the cascade without evidence, and the run before it was damaged.
"""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cxml import pipeline, storage
from cxml.batch_prediction import PredictionJob, predict_file
from cxml.config import EvidenceConfig
from cxml.data import DataManifest, ShardedDataset, data_url, validation_texts
from cxml.errors import ConfigError, DataError
from cxml.formats import TextSource
from cxml.metrics import log_odds
from cxml.parallel import run_workers
from cxml.pipeline.dry_run import dry_run
from cxml.pipeline.plan import evidence_bytes
from cxml.prediction import Predictor, read_scores
from cxml.serving.batching import PredictRequest, answer_together
from cxml.training import complete_evidence, evidence, evidence_url


@pytest.fixture(scope="module")
def texts(run):
    dataset = ShardedDataset(data_url(run[0]), "test")
    return [text.replace("\n", " ") for text in dataset.texts(np.arange(len(dataset)))]


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor.from_checkpoint(run[0].output)


@pytest.fixture(scope="module")
def expected(predictor, texts):
    return predictor.predict(texts, 5)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the finished run, to be changed."""
    shutil.copytree(run[0].output, tmp_path / "out")
    return dataclasses.replace(run[0], output=str(tmp_path / "out"))


def assert_same(found, expected, atol=2e-6):
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol)
    ties = np.abs(np.diff(expected.scores, axis=1, append=0)) < atol
    assert ((found.labels == expected.labels) | ties | np.roll(ties, 1, 1)).all()


def test_the_predictor_gives_the_scores_of_the_evaluation(run, texts, expected):
    scores = read_scores(f"{run[0].output}/predictions.npz", len(texts), len(expected.names)).toarray()
    np.testing.assert_allclose(np.take_along_axis(scores, expected.labels, 1), expected.scores, atol=2e-6)


def test_the_report_has_the_combination_and_the_cascade_alone(run, texts):
    config, report = run
    evidence = report["evidence"]
    assert evidence["way"] == "learnt"
    assert evidence["texts"] == round(DataManifest.read(data_url(config)).rows("train") * 0.25)
    assert report["levels"][-1]["P@5"] > evidence["cascade"]["P@5"]
    alone = Predictor.from_checkpoint(config.output, evidence=False).predict(texts, 5)
    truth = ShardedDataset(data_url(config), "test").labels_csr().toarray()
    hits = 100 * np.take_along_axis(truth, alone.labels, 1).mean()
    assert evidence["cascade"]["P@5"] == pytest.approx(hits)


def test_words_beyond_the_encoders_length_count(predictor, run):
    known = "anemia due to iron deficiency " * 20
    other = known + "neutropenia agranulocytosis"
    assert predictor._cascade.encode([known]).values.tolist() == predictor._cascade.encode([other]).values.tolist()
    scores = [predictor.predict([text], 249) for text in (known, other)]
    agranulocytosis = next(i for i, name in enumerate(predictor.names) if name.startswith("D70 "))
    before, after = (dict(zip(each.labels[0], each.scores[0], strict=True)).get(agranulocytosis, 0) for each in scores)
    assert after > before
    assert run[0].data.max_length == 32


def test_batch_prediction_and_serving_give_the_same_labels(run, texts, expected, predictor, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(texts[:20]))
    source = TextSource(url=str(tmp_path / "texts.txt"))
    predict_file(PredictionJob(model=run[0].output, source=source, output=str(tmp_path / "out"), part_rows=9))
    lines = [line for part in sorted((tmp_path / "out").glob("part-*")) for line in part.read_text().splitlines()]
    batch = [[each["label"] for each in json.loads(line)["labels"]] for line in lines]
    asked = [PredictRequest(texts[start : start + 5], 5, False) for start in range(0, 20, 5)]
    answers = [json.loads(answer) for answer in answer_together(predictor, asked)]
    served = [[label["label"] for label in row] for answer in answers for row in answer["predictions"]]
    assert batch == served == expected.labels[:20].tolist()


def test_an_exported_folder_gives_the_same_also_mapped(predictor, texts, expected, tmp_path):
    predictor.save_pretrained(tmp_path / "export")
    for memory_map in (False, True):
        assert_same(Predictor.from_pretrained(tmp_path / "export", memory_map=memory_map).predict(texts, 5), expected)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "words of the whole texts" in card
    assert "506 training texts" in card
    assert "249 label names" in card
    (tmp_path / "export" / "evidence" / "words" / "level-02.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"evidence/words/level-02\.safetensors.*Export the model again"):
        Predictor.from_pretrained(tmp_path / "export")


def test_a_restricted_model_gives_the_scores_of_before(predictor, texts):
    kept = np.arange(3, 249, 7)
    everything = predictor.predict(texts[:30], 249, beam=(8, 32))
    found = predictor.restricted_to(kept.tolist()).predict(texts[:30], 5, beam=(8, 32))
    for row in range(30):
        scores = dict(zip(everything.labels[row].tolist(), everything.scores[row].tolist(), strict=True))
        assert np.isin(found.labels[row], kept).all()
        # A label that a part has not proposed before may be proposed among fewer; most were.
        close = [abs(scores.get(label, 0) - score) < 1e-4 for label, score in zip(*found_row(found, row), strict=True)]
        assert np.mean(close) >= 0.6


def found_row(found, row):
    return found.labels[row].tolist(), found.scores[row].tolist()


def test_an_excluded_label_makes_room_for_the_next_of_the_combination(predictor, texts, expected):
    best = int(expected.labels[0, 0])
    without = predictor.predict(texts[:3], 5, excluded={0: [best]})
    assert best not in without.labels[0]
    assert without.labels[0, :4].tolist() == expected.labels[0, 1:].tolist()


def test_a_threshold_keeps_the_labels_whose_combined_score_reaches_it(predictor, texts, expected):
    sure = predictor.predict(texts, 5, threshold="micro-f1")
    least = predictor.parts.decisions.threshold("micro-f1").shared
    assert 0 < (sure.labels >= 0).sum() < sure.labels.size
    assert sure.scores[sure.labels >= 0].min() >= least
    assert (sure.labels >= 0).sum() == (expected.scores >= least).sum()


def test_an_explanation_has_the_scores_of_the_combination(run, predictor, texts, expected):
    explained = predictor.explain(texts[:10], 5)
    assert [[each.label for each in row] for row in explained] == expected.labels[:10].tolist()
    np.testing.assert_allclose([[each.score for each in row] for row in explained], expected.scores[:10], atol=2e-6)
    leaves = predictor.parts.tree.cluster_of_label(1)
    assert all(each.path[1].node == leaves[each.label] for row in explained for each in row)
    alone = Predictor.from_checkpoint(run[0].output, evidence=False).predict(texts[:10], 249)
    for row, labels in zip(predictor.explain(texts[:10], 249), alone.labels, strict=True):
        of_cascade = {each.label for each in row if each.probability > 0}
        assert of_cascade <= set(labels.tolist())
        assert of_cascade != {each.label for each in row}  # the sources have proposed others


def test_logit_adjustment_takes_the_log_odds_off_the_combined_logits(run, predictor, texts):
    adjusted = Predictor.from_checkpoint(run[0].output, logit_adjustment=0.5).predict(texts[:20], 249)
    plain = predictor.predict(texts[:20], 249)
    odds = log_odds(predictor.parts.frequency, predictor.parts.num_train_texts)
    for row in range(20):
        logit = {label: np.log(score / (1 - score)) for label, score in zip(*found_row(plain, row), strict=True)}
        for label, score in zip(*found_row(adjusted, row), strict=True):
            if 1e-4 < score < 0.999 and abs(logit[label]) < 9:
                assert np.log(score / (1 - score)) == pytest.approx(logit[label] - 0.5 * odds[label], abs=0.01)


def test_propensity_ranking_of_the_combination_prefers_rare_labels(run, predictor, texts):
    rare = Predictor.from_checkpoint(run[0].output, propensity_ranking=1.0).predict(texts, 5)
    frequency = predictor.parts.frequency
    assert frequency[rare.labels].mean() < frequency[predictor.predict(texts, 5).labels].mean()


def test_an_onnx_export_is_refused_with_the_remedy(predictor, tmp_path):
    with pytest.raises(ConfigError, match=r"words and neighbours and names.*no-evidence"):
        predictor.save_onnx(tmp_path / "onnx")


def test_tokens_without_words_are_refused_and_with_words_predicted_as_their_texts(predictor, texts):
    with pytest.raises(ConfigError, match="evidence=False"):
        predictor.predict_tokens(predictor._cascade.encode(texts[:2]), 5)
    tokens, words = predictor._cascade.encode(texts[:2]), predictor.parts.evidence.vocabulary.of_texts(texts[:2])
    assert_same(predictor.predict_tokens(tokens, 5, words=words), predictor.predict(texts[:2]))


def test_a_run_without_validation_texts_is_refused_before_it_begins(run, tmp_path):
    train = dataclasses.replace(run[0].train, validation_fraction=0.0)
    config = dataclasses.replace(run[0], output=str(tmp_path / "new"), train=train)
    for begin in (pipeline.run, dry_run):
        with pytest.raises(ConfigError, match=r"evidence\.words.*train\.validation_fraction: 0\.05"):
            begin(config)
    assert not (tmp_path / "new" / "data").exists()


def test_data_of_an_earlier_release_are_refused_with_the_remedy(own_run):
    file = Path(data_url(own_run)) / "manifest.json"
    values = json.loads(file.read_text())
    del values["vocabulary"], values["checksum"]
    file.write_text(json.dumps(values))
    DataManifest.read(data_url(own_run))
    with pytest.raises(DataError, match="an earlier release of cxml prepared it"):
        pipeline.run(own_run)
    model = Path(own_run.output) / "model" / "manifest.json"
    before = model.read_bytes()
    shutil.rmtree(data_url(own_run))
    pipeline.run(own_run)  # the remedy: data alone are made again
    assert model.read_bytes() == before


FILES = (
    "combination.json", "labels.safetensors", "words/level-00.safetensors", "words/vocabulary.arrow",
    "neighbours/part-00000.safetensors", "neighbours/lists.safetensors", "names/part-00000.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_refused_by_name(own_run, file):
    path = Path(evidence_url(own_run)) / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"evidence/{file}"):
        Predictor.from_checkpoint(own_run.output)
    path.unlink()
    with pytest.raises(DataError, match=f"evidence/{file}"):
        Predictor.from_checkpoint(own_run.output)


def test_unfinished_evidence_is_made_again_without_training_by_any_number_of_processes(own_run, run, texts, expected):
    model = Path(own_run.output) / "model" / "manifest.json"
    before = model.read_bytes()
    Path(evidence_url(own_run), "manifest.json").unlink()
    alone = Predictor.from_checkpoint(own_run.output)
    assert alone.parts.evidence is None
    two = dataclasses.replace(own_run, train=dataclasses.replace(own_run.train, num_workers=2))
    report = pipeline.run(two)
    assert model.read_bytes() == before
    parts = [
        safetensors.numpy.load_file(file) for file in sorted(Path(evidence_url(own_run)).glob("neighbours/part-*"))
    ]
    assert [len(part["vectors"]) for part in parts] == [253, 253]
    (whole,) = (safetensors.numpy.load_file(file) for file in Path(evidence_url(run[0])).glob("neighbours/part-*"))
    both = np.concatenate([part["vectors"] for part in parts])
    cosines = whole["vectors"].astype(np.float32) @ both.T.astype(np.float32)
    assert min(cosines.max(0).min(), cosines.max(1).min()) > 0.999
    found = Predictor.from_checkpoint(own_run.output).predict(texts, 5)
    assert_same(found, expected, atol=1e-2)  # texts are padded to others in their batches, and fp16 rounds
    assert report["levels"][-1] == pytest.approx(run[1]["levels"][-1], abs=0.5)
    assert report["evidence"]["cascade"] == pytest.approx(run[1]["evidence"]["cascade"], abs=0.5)


def test_evidence_that_the_config_no_longer_wants_is_deleted(own_run, run):
    report = pipeline.run(dataclasses.replace(own_run, evidence=EvidenceConfig()))
    assert not storage.exists(evidence_url(own_run))
    assert report["levels"][-1] == run[1]["evidence"]["cascade"]
    assert "evidence" not in report


def test_the_planned_sizes_are_upper_bounds(run):
    config, report = run
    planned, found = evidence_bytes(config), report["evidence"]["bytes"]
    assert set(found) == {"words", "neighbours", "names"}
    assert found["words"] < planned["words"] < 20 * found["words"]
    for name in ("neighbours", "names"):
        assert found[name] < planned[name] < 2 * found[name]


def test_only_texts_that_were_trained_on_are_stored(run, predictor):
    config, _ = run
    dataset = ShardedDataset(data_url(config), "train")
    held = validation_texts(config.data.directory or data_url(config), config.train.validation_fraction)
    kept = np.setdiff1d(np.arange(len(dataset)), held.rows)
    (neighbours,) = (each for each in predictor.parts.evidence.sources if each.name == "neighbours")
    assert len(neighbours.index) == len(kept)
    features = predictor.embed(dataset.texts(kept))
    cosines, rows = neighbours.index.search(features, 1)
    assert cosines.min() > 0.999  # each is its own nearest, or a twin's
    truth = dataset.labels_csr()[kept].toarray()
    stored = np.zeros_like(truth)
    stored[np.repeat(np.arange(len(kept)), neighbours.labels.lengths), neighbours.labels.values] = 1
    assert (stored[rows[:, 0]] == truth).all(1).mean() > 0.8
    assert sorted(map(tuple, stored)) == sorted(map(tuple, truth))


def die_before_the_manifest(config):
    """On a worker: make the evidence, but end as by a kill when all is written but the manifest."""
    evidence.commit_evidence = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    complete_evidence(config, "a fingerprint")


def test_a_stage_that_was_killed_leaves_nothing_that_is_taken_for_whole(own_run, run, texts, expected):
    Path(evidence_url(own_run), "manifest.json").unlink()
    with pytest.raises(Exception, match=r"9|KILL"):
        run_workers(die_before_the_manifest, (own_run,), 1)
    assert list(Path(evidence_url(own_run)).glob("neighbours/part-*"))
    assert Predictor.from_checkpoint(own_run.output).parts.evidence is None
    pipeline.make_model(own_run)
    assert_same(Predictor.from_checkpoint(own_run.output).predict(texts, 5), expected)


def test_neighbours_without_faiss_are_refused_before_a_run_begins_and_by_the_predictor(own_run, monkeypatch):
    monkeypatch.setattr("cxml.extras.is_installed", lambda module: module != "faiss")
    with pytest.raises(ConfigError, match=r"evidence\.neighbours.*pip install 'cxml\[neighbours\]'"):
        pipeline.run(own_run)
    with pytest.raises(ConfigError, match=r"pip install 'cxml\[neighbours\]'"):
        Predictor.from_checkpoint(own_run.output)
    assert Predictor.from_checkpoint(own_run.output, evidence=False).parts.evidence is None
