"""The whole pipeline on real data: stages are reused, refused when stale, and redone on demand; the dry run is right.

Oracles: modification times of the files, metrics computed by hand, and the sizes of the saved model.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.runs import make_encoder, small_config

from cxml import pipeline
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.data import ShardedDataset
from cxml.errors import StaleArtefactError
from cxml.metrics import metric_sums

PARTS = ("data", "tree", "model", "baseline.json", "report.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, started by the command line as a user would."""
    folder = tmp_path_factory.mktemp("run")
    encoder = make_encoder(folder / "encoder", dropout=0.1)
    config = small_config(
        folder / "out", encoder, train={"epochs": 1, "num_workers": 2}, evaluate={"baseline": True, "examples": 2}
    )
    file = folder / "config.yaml"
    file.write_text(dump_config(config_to_dict(config)))
    command = [sys.executable, "-m", "cxml.train", "--config", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return config, result


def stamps(config):
    """When each part was written last."""
    return {
        part: max(
            file.stat().st_mtime_ns for file in [Path(config.output) / part, *(Path(config.output) / part).glob("**/*")]
        )
        for part in PARTS
    }


def test_the_report_shows_metrics_baseline_levels_and_examples(finished):
    _, result = finished
    for words in ("P@1", "PSP@5", "nDCG@3", "Parabel", "8 clusters", "32 clusters", "Examples", "true"):
        assert words in result.stdout


def test_progress_is_visible_all_along_where_there_is_no_terminal(finished):
    _, result = finished
    for words in (
        "level_sizes: [8, 32]",
        "optimiser state per rank",
        "prepare  begins",
        "tree     begins",
        "train    begins",
        "texts/s",
        "left",
        "evaluate done",
    ):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


def test_metrics_jsonl_holds_every_record(finished):
    config, _ = finished
    records = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    rows = len(ShardedDataset(f"{config.output}/data", "train"))
    assert [record["step"] for record in records] == list(range(1, -(-rows // config.train.batch_size) + 1))
    assert all(len(record["level_losses"]) == config.num_levels for record in records)
    assert all(0 <= record["data_wait"] < 1 for record in records)


def test_evaluation_over_two_processes_equals_evaluation_over_one(finished):
    config, _ = finished
    alone = dataclasses.replace(config, train=dataclasses.replace(config.train, num_workers=1))
    from cxml.parallel import run_workers
    from cxml.training import evaluate_run

    report = run_workers(evaluate_run, (alone,), 1)
    saved = json.loads((Path(config.output) / "report.json").read_text())
    for found, expected in zip(report["levels"], saved["levels"], strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert report["examples"] == saved["examples"]


def test_the_reported_baseline_is_that_of_a_metric_computed_by_hand(finished):
    config, _ = finished
    from cxml.report import linear_baseline

    train, test = (ShardedDataset(f"{config.output}/data", split) for split in ("train", "test"))
    predicted = linear_baseline(train.features_csr(), train.labels_csr(), test.features_csr(), 5)
    by_hand = np.mean([label in row.indices for label, row in zip(predicted[:, 0], test.labels_csr(), strict=True)])
    saved = json.loads((Path(config.output) / "baseline.json").read_text())["metrics"]
    assert saved["P@1"] == pytest.approx(100 * by_hand, abs=2)  # omikuji's threads make its trees differ a little
    assert metric_sums(predicted, test.labels_csr(), (1,)).result()["P@1"] == pytest.approx(100 * by_hand)


def test_a_second_run_reuses_every_stage(finished):
    config, _ = finished
    before = stamps(config)
    pipeline.run(config)
    assert stamps(config) == before


def test_other_settings_are_refused_and_nothing_is_lost(finished):
    config, _ = finished
    before = stamps(config)
    changed = dataclasses.replace(config, optim=dataclasses.replace(config.optim, encoder_lr=1e-3))
    with pytest.raises(StaleArtefactError, match="--force train"):
        pipeline.run(changed)
    with pytest.raises(StaleArtefactError, match="--force tree"):
        pipeline.run(dataclasses.replace(config, tree=dataclasses.replace(config.tree, level_sizes=(8, 30))))
    assert stamps(config) == before


def test_forcing_a_stage_redoes_it_and_what_depends_on_it_only(finished):
    config, _ = finished
    before = stamps(config)
    pipeline.run(config, force=["tree"])
    redone = {part for part, stamp in stamps(config).items() if stamp != before[part]}
    assert redone == {"tree", "model", "report.json"}


def test_a_failing_worker_ends_the_command_with_its_reason(finished, tmp_path):
    config, _ = finished
    broken = dataclasses.replace(
        config,
        output=str(tmp_path / "out"),
        data=dataclasses.replace(config.data, directory=f"{config.output}/data"),
        model=dataclasses.replace(config.model, freeze_layers=9),
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(broken)))
    command = [sys.executable, "-m", "cxml.train", "--config", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ})
    assert result.returncode == 2
    assert "model.freeze_layers = 9: the encoder has 2 layers" in result.stderr
    assert not (tmp_path / "out" / "model" / "manifest.json").exists()


def dry_run_of(config):
    from cxml.pipeline.dry_run import dry_run

    return dry_run(config)


@pytest.fixture
def fresh(finished, tmp_path):
    """The config of the finished run with an output folder that does not exist."""
    return dataclasses.replace(finished[0], output=str(tmp_path / "never"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(fresh, capsys):
    dry_run_of(fresh)
    assert not Path(fresh.output).exists()
    output = capsys.readouterr().out
    assert "bytes per row" in output
    assert "tokens per step" in output
    words = " ".join(output.split())  # the console breaks lines
    assert f"With {fresh.train.num_workers + 1} processes instead of {fresh.train.num_workers}" in words
    assert "Estimate" in output


def test_a_dry_run_counts_the_steps_of_texts_and_of_names_as_texts(finished, fresh):
    dataset = ShardedDataset(f"{finished[0].output}/data", "train")
    rows, labels = len(dataset), dataset.manifest.num_labels
    assert dry_run_of(fresh).total_steps == -(-rows // fresh.train.batch_size)
    named = dry_run_of(dataclasses.replace(fresh, train=dataclasses.replace(fresh.train, name_texts="(.+)")))
    assert named.total_steps == -(-(rows + labels) // fresh.train.batch_size)


def test_a_dry_run_plans_the_bytes_of_the_saved_weights_and_of_the_label_rows(finished, fresh):
    config, _ = finished
    plan = dry_run_of(fresh)
    weights = sum(plan.parameters.values())
    model = json.loads((Path(config.output) / "model" / "manifest.json").read_text())
    header = 20_000
    assert 0 <= model["weights"]["bytes"] - 4 * weights < header
    assert plan.weights == 4 * weights
    labels = ShardedDataset(f"{config.output}/data", "train").manifest.num_labels
    assert plan.label_rows == -(-labels * (32 * 3 + 5) * 4 // config.train.num_workers)  # weights, moments, counters


def test_a_model_is_evaluated_again_with_other_cut_offs(finished, capsys):
    config, _ = finished
    wider = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, top_k=(1, 7), baseline=False))
    report = pipeline.evaluate_again(wider)
    assert {"P@7", "PSP@7"} <= report["levels"][-1].keys()
    assert "recall@7" in capsys.readouterr().out


def test_a_run_goes_through_after_an_evaluation_with_other_cut_offs(finished):
    config, _ = finished
    before = stamps(config)
    pipeline.evaluate_again(
        dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, top_k=(1, 7), baseline=True))
    )
    report = pipeline.run(config)
    assert {"P@1", "P@3", "P@5"} <= report["levels"][-1].keys()
    assert {"P@1", "P@3", "P@5"} <= report["baseline"].keys()
    redone = {part for part, stamp in stamps(config).items() if stamp != before[part]}
    assert redone == {"baseline.json", "report.json"}


def test_evaluating_before_training_says_what_to_do(finished, tmp_path):
    config, _ = finished
    with pytest.raises(StaleArtefactError, match=r"python -m cxml\.train"):
        pipeline.evaluate_again(dataclasses.replace(config, output=str(tmp_path)))
