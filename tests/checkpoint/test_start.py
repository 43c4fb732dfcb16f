"""A run starts from the weights of another run: all of them, or the encoder's only; labels may be added.

Oracles: the tensors in the files of the source run, and the predictions of its model.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import checkpointed, model_tensors, train_each
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml import pipeline
from cxml.artefacts import read_manifest, write_manifest
from cxml.checkpoint import list_checkpoints, load_model, load_start, read_model_manifest
from cxml.commands.relabel import main as relabel_command
from cxml.config import config_to_dict, saved_config, with_values
from cxml.data import ShardedDataset, collate
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.evidence import evidence_folder
from cxml.formats import read_source
from cxml.model import build_model
from cxml.parallel import Exchange, run_workers, sharded_levels
from cxml.transfer.label_set import relabel
from cxml.tree import LabelTree


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with a model and checkpoints of its last step."""
    folder = tmp_path_factory.mktemp("start")
    config = small_config(folder, make_encoder(folder / "encoder"), train={"epochs": 1, "batch_size": 64})
    prepare_with_tree(config)
    config = checkpointed(config, folder / "out", checkpoint={"every_minutes": 0, "every_steps": 11})
    assert run_workers(train_each, ([(config, None, "auto")],), 1) == [True]
    return config


def fresh(config, tree, **model):
    torch.manual_seed(5)
    settings = dataclasses.replace(config.model, **model)
    built = build_model(settings, tree, make_levels=sharded_levels(tree, Exchange(), config))
    load_start(settings, built, tree)
    return built


def sources(config):
    return {"model": f"{config.output}/model", "checkpoint": list_checkpoints(f"{config.output}/checkpoints")[0].url}


def rows(model):
    return {name: torch.cat([block[name] for block in model.label_head.export_rows()]) for name in ("weight", "bias")}


@pytest.mark.parametrize("source", ["model", "checkpoint"])
def test_all_weights_of_a_model_or_checkpoint_are_taken(trained, source):
    tree = LabelTree.load(trained.tree.directory)
    found = fresh(trained, tree, start_from=sources(trained)[source], start_with="all")
    expected = model_tensors(Path(trained.output))
    for name, values in found.named_parameters():
        assert torch.equal(values, expected[name]), name
    kept = load_model(sources(trained)["model"], tree, Exchange())
    for name, values in rows(kept).items():
        torch.testing.assert_close(rows(found)[name], values, rtol=1e-6, atol=0)


def test_a_checkpoint_predicts_without_its_optimiser_state(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sources(trained)["checkpoint"], copy)
    for file in (*copy.glob("optimizer-*"), *copy.glob("label_optimizer-*")):
        file.unlink()
    tree = LabelTree.load(trained.tree.directory)
    found = load_model(str(copy), tree, Exchange())
    expected = load_model(sources(trained)["model"], tree, Exchange())
    dataset = ShardedDataset(trained.data.directory, "test")
    batch = collate(*dataset.gather(np.arange(16)), pad_id=0, global_size=16)
    with torch.inference_mode():
        pairs = list(zip(found(batch, predict_k=5), expected(batch, predict_k=5), strict=True))
    for one, other in pairs:
        torch.testing.assert_close(one.scores, other.scores)
        assert torch.equal(one.nodes, other.nodes)


@pytest.mark.parametrize("source", ["model", "checkpoint"])
def test_the_encoder_alone_fits_any_tree(trained, source):
    tree = LabelTree.load(trained.tree.directory)
    other = LabelTree(tree.label_order[::-1].copy(), tree.offsets)
    found = fresh(trained, other, start_from=sources(trained)[source])
    expected = model_tensors(Path(trained.output))
    taken = {name: values for name, values in found.named_parameters() if name.startswith("encoder.")}
    assert len(taken) > 10
    for name, values in taken.items():
        assert torch.equal(values, expected[name]), name
    with pytest.raises(DataError, match="another label tree"):
        fresh(trained, other, start_from=sources(trained)[source], start_with="all")


def test_what_is_no_model_is_refused(trained, tmp_path):
    with pytest.raises(DataError, match="so the model in this folder is incomplete"):
        fresh(trained, LabelTree.load(trained.tree.directory), start_from=str(tmp_path))


def test_labels_may_be_added_to_a_trained_model_by_a_command(trained, tmp_path, capsys):
    from cxml.config_files import dump_config

    source = dataclasses.replace(trained.data.source, chapters=("3", "22"))
    more = dataclasses.replace(
        trained, output=str(tmp_path / "more"), data=dataclasses.replace(trained.data, directory="", source=source),
        tree=dataclasses.replace(trained.tree, directory=""),
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(more)))
    assert relabel_command(["--config", str(file), "--model", f"{trained.output}/model"]) == 0
    assert "labels with their rows, 6 new" in capsys.readouterr().out
    old, new = (LabelTree.load(folder) for folder in (trained.tree.directory, f"{more.output}/tree"))
    assert new.num_labels > old.num_labels
    from cxml.data import read_label_table

    names = [read_label_table(folder).names for folder in (trained.data.directory, f"{more.output}/data")]
    before, after = (
        load_model(f"{output}/model", tree, Exchange()) for output, tree in ((trained.output, old), (more.output, new))
    )
    place_of = {names[1][label]: place for place, label in enumerate(new.label_order)}
    places = torch.tensor([place_of[names[0][label]] for label in old.label_order])
    layout = after.label_head.layout
    rows_there = torch.from_numpy(layout.local_rows(places.numpy()))
    own = torch.from_numpy(before.label_head.layout.positions())
    assert torch.equal(rows(after)["weight"][rows_there][own], rows(before)["weight"])
    report = pipeline.evaluate_again(more)
    assert report["levels"][-1]["P@1"] > 0
    with pytest.raises(StaleArtefactError, match="another output"):
        relabel(more, f"{trained.output}/model")


def write_rows(source, folder, splits):
    """Write texts of another source as JSON lines; each split has the same ones."""
    folder.mkdir()
    raw = read_source(source)
    test = raw.splits["test"]
    lines = [
        json.dumps({"text": text, "labels": [raw.label_names[i] for i in test.labels[row].indices]}) + "\n"
        for row, text in enumerate(test.texts)
    ]
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(lines))


@pytest.mark.parametrize("has_validation", [False, True])
def test_a_model_is_carried_over_without_the_choices_that_only_its_training_could_follow(
    trained, tmp_path, has_validation
):
    chosen = {"train.keep": "refit", "train.validation_fraction": 0.1, "evidence.words": True, "train.epochs": 7}
    model = shutil.copytree(f"{trained.output}/model", tmp_path / "model")
    manifest = read_manifest(str(model), "")
    saved = with_values(trained, chosen)
    write_manifest(str(model), {**manifest, "config": config_to_dict(saved)})
    raw = tmp_path / "raw"
    write_rows(trained.data.source, raw, ("train", "test", "validation")[: 2 + has_validation])
    run = with_values(
        trained,
        {"output": str(tmp_path / "new"), "data.directory": "", "tree.directory": "",
         "data.source": {"kind": "jsonl", "path": str(raw)}},
    )  # fmt: skip
    run = dataclasses.replace(run, auto=tuple(chosen))
    relabel(run, str(model))
    relabelled = read_model_manifest(f"{run.output}/model")
    written = saved_config(relabelled.config)
    assert written.train.keep == "last"
    assert written.train.validation_fraction == 0
    assert written.train.epochs == 7
    assert written.evidence.sources == (("words",) if has_validation else ())
    assert written.auto == ()
    pipeline.run(run)
    assert read_model_manifest(f"{run.output}/model").weights == relabelled.weights  # not trained
    assert (evidence_folder(f"{run.output}/model") is not None) == has_validation


def test_a_run_with_no_label_in_common_is_refused(trained, tmp_path):
    source = dataclasses.replace(trained.data.source, chapters=("22",))
    other = dataclasses.replace(
        trained, output=str(tmp_path), data=dataclasses.replace(trained.data, directory="", source=source),
        tree=dataclasses.replace(trained.tree, directory="", level_sizes=(2, 4)),
    )  # fmt: skip
    with pytest.raises(DataError, match="none of its label names"):
        relabel(other, f"{trained.output}/model")


@pytest.mark.parametrize(("field", "value"), [("keep", "best"), ("keep", "refit"), ("budget", "1h")])
def test_a_model_is_not_carried_over_to_a_run_that_asks_about_its_training(trained, tmp_path, field, value):
    other = dataclasses.replace(
        trained, output=str(tmp_path / "other"), train=dataclasses.replace(trained.train, **{field: value})
    )
    with pytest.raises(ConfigError, match=rf"train\.{field}.*adapted without"):
        relabel(other, f"{trained.output}/model")
    assert not (tmp_path / "other" / "model").exists()
