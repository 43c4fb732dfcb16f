"""Model selection: the best epoch on the validation texts becomes the model; a final fit trains on all texts.

Oracles: a run that ends with that epoch, a run on all texts for as many epochs, and runs without a stop.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import checkpointed, model_tensors, off, train_each
from support.runs import FINGERPRINTS, make_encoder, prepare_with_tree, small_config

from cxml import artefacts, pipeline, storage
from cxml.checkpoint import list_checkpoints
from cxml.config import EvidenceConfig, SourceConfig
from cxml.data import DataManifest, ShardedDataset, all_labelled_texts, data_url
from cxml.errors import ConfigError, DataError, InterruptionError, StaleArtefactError
from cxml.evidence import read_evidence
from cxml.parallel import run_here, run_workers
from cxml.preparation import prepare
from cxml.preparation.validation_split import hold_out
from cxml.training import Selection, evidence_url, read_selection, train
from cxml.tree import LabelTree, tree_url

EPOCHS, STEPS, NUM_TEXTS = 5, 6, 240  # of each: 192 texts are trained on, in steps of 32
FLAT = {"warmup_epochs": 0.0, "decay_epochs": 0.0, "encoder_lr": 1e-3, "classifier_lr": 5e-2}  # overshoots soon
SELECTING = {"keep": "best", "keep_by": "P@1", "validation_fraction": 0.2}


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(0, 4))
def test_the_first_of_the_best_values_is_taken_and_evaluations_since_are_counted(values, patience):
    found = Selection()
    for epoch, value in enumerate(values, start=1):
        found = Selection.from_state(json.loads(json.dumps(found.after(epoch, 10 * epoch, value).state_dict())))
    assert found.epoch == (values.index(max(values)) + 1 if values else 0)
    assert found.wait_count == (len(values) - found.epoch if values else 0)
    assert found.should_stop(patience) == (patience > 0 and found.wait_count >= patience)


def write_texts(folder):
    """Texts of words of which some tell a label, with labels that a few words too many were drawn for."""
    folder.mkdir()
    draws = np.random.default_rng(5)
    words = ["red", "tree", "house", "river", "stone", "bird", "night", "salt", "glass", "road", "cloud", "iron"]
    for split, count in (("train", NUM_TEXTS), ("test", 40)):
        rows = []
        for _ in range(count):
            own = draws.choice(len(words), size=2, replace=False)
            text = " ".join(words[i] for i in draws.permutation([*own, draws.integers(len(words))]))
            rows.append(json.dumps({"text": text, "labels": [f"about {words[i]}" for i in own]}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return folder


def train_all(jobs):
    """`train_each` in this process."""
    return run_here(train_each, (jobs,), 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    source = SourceConfig(kind="jsonl", path=str(write_texts(folder / "raw")))
    config = small_config(
        folder / "base", make_encoder(folder / "encoder", dropout=0.1), data={"source": source, "max_length": 16},
        tree={"level_sizes": (4,)}, model={"dropouts": (0.0, 0.0), "shortlist_sizes": (2,)},
        train={"epochs": EPOCHS, "batch_size": 32, "threads_per_worker": 1}, log={"every_steps": 3},
    )  # fmt: skip
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **FLAT))
    prepare_with_tree(config)
    return config


def selecting(base, output, **parts):
    """A run that keeps its best epoch, with few checkpoints besides."""
    parts = {"checkpoint": {"every_minutes": 0.0, "every_steps": 4, "keep_last": 1}, **parts}
    return checkpointed(base, output, **{**parts, "train": {**SELECTING, **parts.get("train", {})}})


def curve(output):
    """The metric of each evaluated epoch."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {each["epoch"]: each["levels"][-1]["P@1"] for each in records if each["kind"] == "evaluate"}


def best_of(values):
    return min(values, key=lambda epoch: (-values[epoch], epoch))


def assert_same_model(found, expected):
    expected = model_tensors(expected)
    found = model_tensors(found)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


@pytest.fixture(scope="module")
def through(base):
    """The output of a selecting run that nothing stops, with all the checkpoints that it made on its way out."""
    output = Path(base.output) / "through"
    assert train_all([(selecting(base, output), None, "auto")]) == [True]
    return output


def test_the_model_is_that_of_a_run_that_ends_with_the_best_epoch(base, through):
    values = curve(through)
    best = best_of(values)
    assert sorted(values) == list(range(1, EPOCHS + 1))
    assert best < EPOCHS, values  # else the test shows nothing
    alone = Path(base.output) / "alone"
    shorter = {**SELECTING, "keep": "last", "epochs": best, "evaluate_every": 1}
    train_all([(off(checkpointed(base, alone, train=shorter)), None, "auto")])
    assert_same_model(through, alone)
    found = artefacts.read_json(str(through / "selection.json"), "")
    assert (found["epoch"], found["epochs"], found["value"]) == (best, EPOCHS, values[best])
    assert "stopped" not in found["reason"]


def test_retention_leaves_the_checkpoint_of_the_best_epoch(through):
    best = best_of(curve(through))
    assert best * STEPS in [entry.step for entry in list_checkpoints(str(through / "checkpoints"))]


@pytest.mark.parametrize("stops", [[4], [2 * STEPS], [3, STEPS, 2 * STEPS + 1, 5]], ids=str)
def test_a_run_that_was_stopped_selects_the_same_epoch_and_weights(base, through, tmp_path, stops):
    config = selecting(base, tmp_path / "out")
    jobs = [(config, stop, "auto") for stop in stops]
    assert train_all([*jobs, (config, None, "auto")]) == [False] * len(stops) + [True]
    assert curve(tmp_path / "out") == curve(through)
    assert_same_model(tmp_path / "out", through)


def test_without_the_checkpoint_of_its_best_epoch_a_run_goes_back_further(base, through, tmp_path):
    config = selecting(base, tmp_path / "out", checkpoint={"every_minutes": 0.0, "every_steps": 4, "keep_last": 99})
    assert train_all([(config, 4 * STEPS + 2, "auto")]) == [False]
    entries = list_checkpoints(str(tmp_path / "out" / "checkpoints"))
    for entry in entries:
        if entry.step == best_of(curve(through)) * STEPS:
            storage.remove(entry.url)
    assert train_all([(config, None, "auto")]) == [True]
    assert_same_model(tmp_path / "out", through)


def test_training_stops_after_patience_evaluations_without_a_better_one(base, through, tmp_path):
    values = curve(through)
    waited, best = 0, 1
    for epoch in range(2, EPOCHS + 1):
        best, waited = (epoch, 0) if values[epoch] > values[best] else (best, waited + 1)
        if waited == 1:
            break
    config = selecting(base, tmp_path / "out", train={"patience": 1})
    assert train_all([(config, STEPS + 3, "auto"), (config, None, "auto"), (config, None, "auto")])[1:] == [True, True]
    assert sorted(curve(tmp_path / "out")) == list(range(1, epoch + 1))
    found = artefacts.read_json(str(tmp_path / "out" / "selection.json"), "")
    assert found["epoch"] == best
    assert ("stopped after 1 evaluation" in found["reason"]) == (epoch < EPOCHS)


def test_two_processes_select_alike_and_a_stopped_run_of_theirs_is_the_same(base, tmp_path):
    outputs = [tmp_path / "through", tmp_path / "stopped"]
    configs = [selecting(base, output, train={"num_workers": 2}) for output in outputs]
    jobs = [(configs[0], None, "auto"), (configs[1], 2 * STEPS + 2, "auto"), (configs[1], None, "auto")]
    assert run_workers(train_each, (jobs,), 2) == [True, False, True]
    assert_same_model(outputs[1], outputs[0])
    found = [artefacts.read_json(str(output / "selection.json"), "") for output in outputs]
    assert found[0] == found[1]
    assert found[0]["epoch"] == best_of(curve(outputs[0]))


def test_the_best_epoch_is_kept_in_an_object_store(base, through, tmp_path):
    url = "memory://selection/checkpoints"
    config = selecting(base, tmp_path / "out")
    config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, url=url, every_steps=0))
    try:
        assert train_all([(config, 3 * STEPS + 1, "auto"), (config, None, "auto")]) == [False, True]
        assert_same_model(tmp_path / "out", through)
    finally:
        storage.remove("memory://selection")


# A final fit on all texts


def whole(base, output, keep, **parts):
    """A run from data to report."""
    config = selecting(base, output, train={"keep": keep, **parts.pop("train", {})}, **parts)
    return dataclasses.replace(config, tree=base.tree, evidence=EvidenceConfig(words=True, neighbours=True))


class Jobs:
    """Runs jobs in this process, but fails before one of them."""

    def __init__(self, before):
        self.done, self.before = 0, before

    def __call__(self, work, arguments, num_workers):
        self.done += 1
        if self.done == self.before:
            raise InterruptionError("stopped")
        return run_here(work, arguments, 1)


@pytest.fixture(scope="module")
def both(base):
    """A run that keeps its best epoch and one with a final fit, and the jobs that the latter has."""
    outputs = {keep: Path(base.output) / keep for keep in ("best", "refit")}
    jobs = {keep: Jobs(0) for keep in outputs}
    reports = {keep: pipeline.run(whole(base, output, keep), run_job=jobs[keep]) for keep, output in outputs.items()}
    return outputs, reports, jobs["refit"].done


def test_the_final_fit_trains_anew_on_all_texts_for_the_epochs_that_were_best(base, both):
    outputs, reports, _ = both
    best = artefacts.read_json(str(outputs["best"] / "selection.json"), "")["epoch"]
    alone = Path(base.output) / "all"
    config = off(checkpointed(base, alone, train={"epochs": best}))  # without a share for validation
    run_here(train, (config, FINGERPRINTS), 1)
    assert_same_model(outputs["refit"], alone)
    for keep, output in outputs.items():
        assert reports[keep]["selection"]["epoch"] == best
        assert artefacts.read_json(str(output / "settings.json"), "")["selection"]["epoch"] == best
        assert f"Selected epoch {best} of {EPOCHS}" in (output / "report.html").read_text()


def test_thresholds_and_what_tunes_the_evidence_are_those_from_before_the_final_fit(base, both):
    outputs, _, _ = both
    decisions = [artefacts.read_json(str(output / "decisions.json"), "") for output in outputs.values()]
    identities = {each.pop("model") for each in decisions}
    assert len(identities) == 2
    assert decisions[0] == decisions[1]
    tree = LabelTree.load(tree_url(whole(base, outputs["best"], "best")))
    best, refit = (read_evidence(evidence_url(whole(base, outputs[keep], keep)), tree) for keep in ("best", "refit"))
    assert np.array_equal(best.combination.weights, refit.combination.weights)
    (near_best,), (near_refit,) = (
        [each for each in part.sources if each.name == "neighbours"] for part in (best, refit)
    )
    assert np.array_equal(near_best.parameters, near_refit.parameters)
    assert len(near_refit.labels) == len(ShardedDataset(data_url(base), "train")) > len(near_best.labels)
    train_split = ShardedDataset(data_url(base), "train")
    assert refit.frequency.sum() == train_split.label_counts.sum() > best.frequency.sum()


def test_stopped_before_any_of_its_jobs_a_run_with_a_final_fit_ends_the_same(base, both, tmp_path):
    outputs, reports, num_jobs = both
    config = whole(base, tmp_path / "out", "refit")
    for before in range(1, num_jobs + 1):
        with pytest.raises(InterruptionError):
            pipeline.run(config, run_job=Jobs(2 if before > 1 else 1))
    report = pipeline.run(config, run_job=Jobs(0))
    assert report["levels"] == reports["refit"]["levels"]
    assert report["decisions"] == reports["refit"]["decisions"]
    assert_same_model(tmp_path / "out", outputs["refit"])


def test_a_finished_run_with_a_final_fit_needs_no_longer_the_run_that_chose_its_epochs(base, both, tmp_path):
    outputs, reports, _ = both
    config = whole(base, tmp_path / "out", "refit")
    shutil.copytree(outputs["refit"], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "selection")
    decisions = (tmp_path / "out" / "decisions.json").read_bytes()
    jobs = Jobs(0)
    again = pipeline.run(config, run_job=jobs)
    assert jobs.done == 0
    assert again == reports["refit"]
    other_metrics = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, top_k=(1, 5)))
    report = pipeline.run(other_metrics, run_job=jobs)
    assert jobs.done == 1
    assert report["selection"] == reports["refit"]["selection"]
    assert report["decisions"] == reports["refit"]["decisions"]
    assert (tmp_path / "out" / "decisions.json").read_bytes() == decisions


def test_without_validation_texts_a_selection_is_refused_before_anything_is_made(base, tmp_path):
    config = whole(base, tmp_path / "out", "refit")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, validation_fraction=0.0))
    config = dataclasses.replace(config, evidence=EvidenceConfig())
    with pytest.raises(ConfigError, match=r"train\.keep.*train\.validation_fraction: 0\.05"):
        pipeline.run(config)
    assert not (tmp_path / "out" / "model").exists()


def test_validation_files_that_were_added_later_serve_once_the_data_are_prepared_again(base, tmp_path):
    shutil.copytree(base.data.source.path, tmp_path / "raw")
    source = dataclasses.replace(base.data.source, path=str(tmp_path / "raw"))
    data = dataclasses.replace(base.data, directory="", source=source)
    config = whole(base, tmp_path / "out", "best", train={"epochs": 1, "validation_fraction": 0.0})
    config = dataclasses.replace(config, data=data, tree=dataclasses.replace(base.tree, directory=""))
    prepare(config)
    shutil.copy(tmp_path / "raw" / "test.jsonl", tmp_path / "raw" / "dev.jsonl")
    with pytest.raises(StaleArtefactError, match="--force prepare"):
        pipeline.run(config, run_job=run_here)
    with pytest.raises(InterruptionError):
        pipeline.run(config, ("prepare",), run_job=Jobs(1))
    assert "validation" in DataManifest.read(data_url(config)).splits


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"epoch": "2"}', '{"epoch": 1e400}'])
def test_a_missing_or_damaged_selection_is_refused_by_name(base, tmp_path, content):
    if content is not None:
        (tmp_path / "selection.json").write_text(content)
    with pytest.raises(DataError, match=r"selection\.json.*--force train"):
        read_selection(selecting(base, tmp_path))


def test_impossible_selections_are_refused(base, tmp_path):
    for train_fields, match in (({"keep_by": "F1@2"}, "keep_by"), ({"keep": "last", "patience": 2}, "patience")):
        with pytest.raises(ConfigError, match=match):
            selecting(base, tmp_path, train=train_fields)


def test_all_labelled_texts_are_those_of_train_and_validation(base, tmp_path):
    hold_out(data_url(base), str(tmp_path / "cut"), fraction=0.2, seed=0, name="validation")
    joined = all_labelled_texts(str(tmp_path / "cut"))
    parts = [ShardedDataset(str(tmp_path / "cut"), name) for name in ("train", "validation")]
    rows = np.random.default_rng(0).permutation(len(joined))
    labels, features = joined.labels_csr(), joined.features(rows)
    ids, own_labels = joined.gather(rows)
    assert len(joined) == sum(map(len, parts)) == len(ShardedDataset(data_url(base), "train"))
    for place, row in enumerate(rows.tolist()):
        part, own = (parts[0], row) if row < len(parts[0]) else (parts[1], row - len(parts[0]))
        expected = part.gather(np.array([own]))
        assert ids.slice(place, place + 1).values.tolist() == expected[0].values.tolist()
        assert own_labels.slice(place, place + 1).values.tolist() == expected[1].values.tolist()
        assert sorted(labels[row].indices) == sorted(expected[1].values)
        assert (features[place] != part.features(np.array([own]))).nnz == 0
        assert joined.lengths[row] == len(expected[0].values)
