"""A search with Ray Tune: the best values are written, a killed search resumes, and the test split stays unseen.

Oracles: the recorded metrics of all trials, and the rows of the train split.
"""

import json
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
import yaml
from support.launching import ROOT, wait_until
from support.ray import one_at_a_time
from support.runs import make_encoder, small_config

from cxml.config import config_from_dict, config_to_dict, with_values
from cxml.config_files import dump_config
from cxml.data import DataManifest, ShardedDataset
from cxml.errors import ConfigError
from cxml.preparation import prepare
from cxml.tuning.space import read_space


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    train = {"epochs": 2, "validation_fraction": 0.1}  # a run with evidence, which its trials go without
    encoder = make_encoder(folder / "encoder")
    config = small_config(folder / "out", encoder, train=train, evidence={"words": True})
    (folder / "config.yaml").write_text(dump_config(config_to_dict(config)))
    return folder, config


def command(folder, trials):
    return [
        sys.executable, "-m", "cxml.tune", "--config", str(folder / "config.yaml"),
        "--space", str(folder / "space.yaml"), "--trials", str(trials), "--metric", "P@1", "--held-out", "0.2",
        "--cpus-per-trial", "1",
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def trainings(folder):
    """Processes of the folder's trials that still run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "cxml.train" in words and any(word.startswith(str(folder)) for word in words):
            found.append(process)
    return found


def test_a_killed_search_goes_on_and_the_best_trial_is_written_down(base):
    folder, config = base
    (folder / "space.yaml").write_text(
        "optim.classifier_lr: {choice: [1.0e-9, 3.0e-2]}\nmodel.scoring: {choice: [level]}\n"
    )
    trials = folder / "out" / "tune" / "trials"
    with one_at_a_time(), (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command(folder, 5), cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
        wait_until(lambda: any(trials.glob("*/model/manifest.json")) or first.poll() is not None, "no trial ends", 300)
        assert first.poll() is None, (folder / "first.log").read_text()[-3000:]
        first.kill()
        first.wait()
        wait_until(lambda: not trainings(folder), "trainings outlive their search", 120)
        finished = {file: file.stat().st_mtime_ns for file in trials.glob("*/model/manifest.json")}
        done = subprocess.run(
            command(folder, 5), check=False, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not trainings(folder)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished, "a finished trial was run again"

    best = config_from_dict(yaml.safe_load((folder / "out" / "tune" / "best.yaml").read_text()))
    assert best.optim.classifier_lr == 3e-2, "1e-9 learns nothing"
    assert best.model.scoring == "level"
    assert best.output == config.output
    reached = {}
    for file in trials.glob("*/metrics.jsonl"):
        own = config_from_dict(yaml.safe_load((file.parent / "trial.yaml").read_text()))
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        reached[own.optim.classifier_lr] = max(
            line["levels"][-1]["P@1"] for line in lines if line["kind"] == "evaluate"
        )
    assert reached[3e-2] == max(reached.values())


def test_trials_see_train_texts_only(base):
    folder, config = base
    held_out = folder / "out" / "tune" / "data"
    whole, part = DataManifest.read(prepare(config)), DataManifest.read(str(held_out))
    assert part.rows("train") + part.rows("test") == whole.rows("train")
    everything = ShardedDataset(prepare(config), "train")
    texts = {split: ShardedDataset(str(held_out), split) for split in ("train", "test")}
    parts = [text for each in texts.values() for text in each.texts(_all(each))]
    assert sorted(parts) == sorted(everything.texts(_all(everything)))


def _all(dataset):
    return np.arange(len(dataset))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "names no field"),
        ("optim.nothing: {choice: [1]}", "not a known field"),
        ("nothing.at.all: {choice: [1]}", "not a known field"),
        ("optim.encoder_lr: {gaussian: [0, 1]}", "not a distribution"),
        ("optim.encoder_lr: {loguniform: [0, 1]}", "encoder_lr"),
        ("optim.encoder_lr: {uniform: [a, b]}", "not a number"),
        ("optim.encoder_lr: {uniform: [-2, -1]}", "must be above 0"),
        ("optim.encoder_lr: 3", "not a distribution"),
    ],
)
def test_a_space_that_cannot_be_is_refused(base, tmp_path, content, problem):
    file = tmp_path / "space.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=problem):
        read_space(str(file), base[1])


def test_values_take_their_fields_places(base):
    changed = with_values(base[1], {"optim.encoder_lr": 0.5, "tree.level_sizes": [4, 16], "seed": 3})
    assert (changed.optim.encoder_lr, changed.tree.level_sizes, changed.seed) == (0.5, (4, 16), 3)
    assert changed.train == base[1].train
