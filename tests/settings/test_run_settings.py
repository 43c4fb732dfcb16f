"""A run that names only its data chooses settings, records them, keeps them, and trains.

Oracles: the recorded choices against the resolved config, and texts of known labels.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.mutations import make_checksums_fit
from support.runs import make_encoder, read_losses

from cxml import pipeline
from cxml.checkpoint import model_url, read_model_manifest, require_start
from cxml.commands.train import main
from cxml.config import CHOOSABLE, config_from_dict, config_to_dict, plain_values, saved_config, with_values
from cxml.config_files import load_config
from cxml.data import DataManifest, data_url
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.parallel import run_here
from cxml.pipeline import stages
from cxml.pipeline.checks import check_run_on_data
from cxml.pipeline.dry_run import dry_run
from cxml.pipeline.resolved_config import resolve_config, resolved
from cxml.prediction import Predictor
from cxml.preparation import is_prepared, prepare

LABELS = ("fruit", "tools", "music", "water")
WORDS = ("apple pear", "hammer saw", "violin drum", "river lake")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A CSV of 60 short texts and one of twelve words."""
    file = tmp_path_factory.mktemp("raw") / "texts.csv"
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for i in range(60):
            first, second = WORDS[i % 4].split()
            writer.writerow([f"{first} and {second} {rng.integers(100)}" + " or" * (6 * (i == 7)), LABELS[i % 4]])
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, raw, encoder):
    """The config of a finished run, as its user gave it."""
    config = mine(tmp_path_factory.mktemp("trained") / "run", raw, encoder)
    pipeline.run(config, run_job=run_here)
    return config


def mine(output, raw, encoder, **sections):
    """A config that says where the data are, and names an encoder that is quick to train."""
    source = {"kind": "table", "path": str(raw)}
    model = {"encoder": encoder, **sections.pop("model", {})}
    return config_from_dict({"output": str(output), "data": {"source": source}, "model": model, **sections})


def test_a_run_without_settings_trains_a_model_that_knows_its_texts(trained):
    found = Predictor.from_checkpoint(trained.output).predict(["apple and pear 5", "violin and drum 7"], k=1)
    assert [found[row][0].name for row in range(2)] == ["fruit", "music"]


@pytest.mark.parametrize("train", [{}, {"precision": "bf16", "accumulation": 2}, {"zero_stage": 3}], ids=str)
def test_a_frozen_encoder_without_a_tree_trains_only_the_label_rows(tmp_path, raw, encoder, train):
    model = {"freeze_layers": 2, "classifier_start": "fresh"}
    pipeline.run(mine(tmp_path, raw, encoder, model=model, train=train, log={"every_steps": 1}), run_job=run_here)
    losses = np.ravel(read_losses(tmp_path))
    assert losses[-5:].mean() < 0.9 * losses[:5].mean()


def test_what_was_chosen_is_kept_with_its_reasons_and_as_a_config_to_train_with(trained):
    record = json.loads(Path(trained.output, "settings.json").read_text())
    assert {each["name"] for each in record["choices"]} == CHOOSABLE.keys()
    assert all(each["reason"] for each in record["choices"])
    resolved = load_config(f"{trained.output}/config.yaml")
    assert resolved.auto == ()
    assert plain_values(resolved, CHOOSABLE) == {each["name"]: each["value"] for each in record["choices"]}
    in_model = saved_config(read_model_manifest(model_url(trained)).config)
    assert plain_values(in_model, CHOOSABLE) == plain_values(resolved, CHOOSABLE)


def test_a_finished_run_is_found_by_the_same_config_and_by_the_resolved_one(trained, caplog):
    with caplog.at_level("INFO"):
        pipeline.run(trained, run_job=run_here)
        pipeline.run(load_config(f"{trained.output}/config.yaml"), run_job=run_here)
    assert sum("train    found" in record.message for record in caplog.records) == 2


@pytest.fixture(scope="module")
def refitted(tmp_path_factory, encoder):
    """The config of a finished run that chose evidence and a final fit, and its report."""
    folder = tmp_path_factory.mktemp("refitted")
    raw = folder / "raw.csv"
    rows = [f"{WORDS[i % 4].split()[i % 2]} {i},{LABELS[i % 4]}" for i in range(700)]
    raw.write_text("\n".join(["text,label", *rows]))
    config = mine(folder / "run", raw, encoder, train={"epochs": 1, "batch_size": 64})
    return config, pipeline.run(config, run_job=run_here)


def copied(config, folder):
    """The config of a copy of its run in `folder`."""
    shutil.copytree(config.output, folder)
    return with_values(config, {"output": str(folder)})


def contents(config):
    """The bytes of all files of a run, by path."""
    return {file: file.read_bytes() for file in sorted(Path(config.output).rglob("*")) if file.is_file()}


def test_a_finished_run_is_evaluated_at_other_cut_offs_than_those_that_selected_its_epoch(refitted, tmp_path):
    config = with_values(copied(refitted[0], tmp_path / "run"), {"evaluate.top_k": [1, 2]})
    report = pipeline.evaluate_again(config, run_job=run_here)
    assert {"P@1", "P@2"} <= report["levels"][-1].keys()
    assert "P@5" not in report["levels"][-1]
    assert report["selection"]["metric"] == "nDCG@5"


@pytest.mark.parametrize(
    "values",
    [
        {"optim.encoder_lr": 1.23e-3},
        {"train.epochs": 2, "evidence.words": False, "evidence.neighbours": False, "evidence.names": False},
    ],
)
def test_a_refused_start_changes_no_file_of_a_finished_run(refitted, tmp_path, values):
    config = copied(refitted[0], tmp_path / "run")
    before = contents(config)
    with pytest.raises(StaleArtefactError, match="model"):
        pipeline.run(with_values(config, values), run_job=run_here)
    assert contents(config) == before


@pytest.mark.parametrize("stage", ["train", "evidence"])
def test_a_repeated_stage_makes_the_evidence_of_model_and_selection_once(refitted, tmp_path, monkeypatch, stage):
    config, made, begin = copied(refitted[0], tmp_path / "run"), [], stages.begin_evidence
    monkeypatch.setattr(stages, "begin_evidence", lambda config: (made.append(config.output), begin(config)))
    pipeline.run(config, [stage], run_job=run_here)
    assert sorted(made) == [config.output, f"{config.output}/selection"]


def test_a_start_from_a_model_that_knows_the_validation_texts_is_warned_of(refitted, tmp_path, caplog):
    first = refitted[0]
    for folder, is_known in (("model", True), ("selection/model", False)):
        start = {"data.directory": data_url(first), "model.start_from": f"{first.output}/{folder}"}
        config = resolved(with_values(first, {"output": str(tmp_path / folder), **start}))
        assert config.train.validation_fraction > 0
        caplog.clear()
        check_run_on_data(config)
        assert ("was also trained on the validation texts" in caplog.text) == is_known
    with pytest.raises(DataError, match=r"output of a run.*run/model"):
        require_start(first.output)


def test_stages_to_repeat_that_a_run_does_not_have_are_named(trained, caplog):
    pipeline.run(trained, ["evidence", "baseline"], run_job=run_here)
    found = [record.message for record in caplog.records if "has no effect" in record.message]
    assert [message.split()[1] for message in found] == ["evidence", "baseline"]


def test_a_run_without_settings_weighs_evidence_on_texts_that_it_held_out_and_trains_on_all_in_the_end(
    refitted, tmp_path
):
    config, report = copied(refitted[0], tmp_path / "run"), refitted[1]
    chosen = resolved(config)
    assert chosen.evidence.sources == ("words", "neighbours")  # the names are not words of the texts
    assert (chosen.train.validation_fraction, chosen.train.keep) == (0.1, "refit")
    assert report["levels"][-1]["P@1"] == 100
    manifests = sorted(Path(model_url(config)).rglob("manifest.json"))
    made = [file.stat().st_mtime_ns for file in manifests]
    assert len(made) == 2  # of the cascade and of the evidence
    pipeline.run(config, run_job=run_here)
    assert [file.stat().st_mtime_ns for file in manifests] == made
    without = with_values(config, {"evidence.words": False, "evidence.neighbours": False, "evidence.names": False})
    report = pipeline.run(without, run_job=run_here)
    assert "evidence" not in report
    assert not Path(model_url(config), "evidence").exists()


def test_evidence_that_the_user_wants_is_refused_without_texts_to_weigh_it_on(tmp_path, raw, encoder):
    config = mine(tmp_path, raw, encoder, train={"epochs": 1})
    pipeline.run(config, run_job=run_here)  # of too few texts to hold some out
    with pytest.raises(ConfigError, match=r"evidence\.words.*validation texts"):
        pipeline.run(with_values(config, {"evidence.words": True}), run_job=run_here)


def test_later_starts_keep_what_the_first_chose_until_something_else_is_given(tmp_path, raw, encoder):
    config = mine(tmp_path, raw, encoder)
    prepare(config)
    first = resolve_config(config)
    record = json.loads((tmp_path / "settings.json").read_text())
    for choice in record["choices"]:  # as on another machine, or by another version's rules
        if choice["name"] == "optim.encoder_lr":
            choice["value"] = 1.23e-4
    (tmp_path / "settings.json").write_text(json.dumps(record))
    assert resolve_config(config).optim.encoder_lr == resolved(config).optim.encoder_lr == 1.23e-4
    assert resolve_config(config, again=True) == first
    other = with_values(config, {"train.epochs": 3})
    assert (resolved(other).train.epochs, resolved(other).optim.encoder_lr) == (3, first.optim.encoder_lr)
    assert resolved(other).optim.decay_epochs < first.optim.decay_epochs


def test_a_run_of_a_version_that_kept_no_choices_goes_on_with_what_it_trained_with(tmp_path, raw, encoder):
    fixed = mine(tmp_path, raw, encoder, auto=[], train={"epochs": 1, "precision": "fp32"})
    pipeline.run(fixed, run_job=run_here)
    left_out = mine(tmp_path, raw, encoder, train={"precision": "fp32"})
    assert plain_values(resolved(left_out), CHOOSABLE.keys() - {"tree.level_sizes"}) == plain_values(
        fixed, CHOOSABLE.keys() - {"tree.level_sizes"}
    )


def test_an_unfinished_final_fit_keeps_what_its_epoch_was_selected_with(refitted, tmp_path):
    config = copied(refitted[0], tmp_path / "run")
    shutil.rmtree(model_url(config))
    selected = Path(config.output, "selection", "model", "manifest.json")
    manifest = json.loads(selected.read_text())
    manifest["config"]["optim"]["encoder_lr"] = 1.23e-4  # as on another machine, or by another version's rules
    selected.write_text(json.dumps(manifest))
    make_checksums_fit(selected.parent)
    Path(config.output, "settings.json").unlink()  # as after a start with other settings
    found = resolved(config)
    assert (found.train.keep, found.optim.encoder_lr) == ("refit", 1.23e-4)
    others = CHOOSABLE.keys() - {"optim.encoder_lr"}
    assert plain_values(found, others) == plain_values(load_config(f"{config.output}/config.yaml"), others)
    assert resolved(with_values(config, {"train.keep": "last"})).optim.encoder_lr != 1.23e-4


def test_a_damaged_record_is_refused_by_name(tmp_path, raw, encoder):
    config = mine(tmp_path, raw, encoder)
    prepare(config)
    resolve_config(config)
    record = json.loads((tmp_path / "settings.json").read_text())
    for choices in ([{"name": "optim.encoder_lr"}], [{"name": "output", "value": "x", "reason": "y"}]):
        (tmp_path / "settings.json").write_text(json.dumps({**record, "choices": choices}))
        with pytest.raises(DataError, match=r"settings\.json: .*Delete it"):
            resolved(config)


def test_texts_are_cut_off_where_all_but_one_in_a_hundred_end_and_prepared_data_keep_their_length(
    tmp_path, raw, encoder
):
    config = mine(tmp_path, raw, encoder)
    prepare(config)
    assert DataManifest.read(data_url(config)).config["max_length"] == 16
    assert is_prepared(config)
    assert resolved(config).data.max_length == 16
    assert is_prepared(with_values(config, {"data.max_length": 16}))


def test_the_dry_run_shows_the_choices_and_writes_nothing(tmp_path, raw, encoder, capsys):
    dry_run(mine(tmp_path / "run", raw, encoder, optim={"encoder_lr": 3e-4}))
    printed = capsys.readouterr().out
    assert "Settings chosen from the data" in printed
    assert "model.pooling" in printed
    assert "optim.encoder_lr" not in printed
    assert not (tmp_path / "run").exists()


def test_options_count_as_given_even_where_they_repeat_the_default(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("output: run\ndata: {source: {kind: icd10cm}}\nmodel: {pooling: auto}\n")
    options = ["--optim.encoder-lr", "1e-4", "--train.no-bucket-by-length", "--train.epochs=10"]
    assert main(["--config", str(file), "--print-config", *options]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["optim"]["encoder_lr"], printed["train"]["epochs"]) == (1e-4, 10)
    assert printed["train"]["bucket_by_length"] is False
    assert printed["optim"]["classifier_lr"] == printed["model"]["pooling"] == "auto"
    given = {"optim.encoder_lr", "train.bucket_by_length", "train.epochs"}
    assert set(config_from_dict(printed).auto) == CHOOSABLE.keys() - given


def test_an_option_leaves_a_field_of_a_published_config_to_the_run():
    config = load_config("wordnet")
    assert config.auto == ()
    left = config_from_dict({**config_to_dict(config), "auto": ["optim.encoder_lr"]})
    assert left.auto == ("optim.encoder_lr",)
    assert config_to_dict(left)["optim"]["encoder_lr"] == "auto"
