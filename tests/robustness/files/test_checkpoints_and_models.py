"""Checkpoints and models with false contents and matching checksums are refused.

Oracle: a real checkpoint and model with one change at a time.
"""

import json
import shutil

import pytest
import safetensors.torch
import torch
from support.mutations import make_checksums_fit

from cxml.checkpoint import ShardReader, load_model
from cxml.errors import CxmlError, DataError
from cxml.parallel import Exchange
from cxml.tree import LabelTree


@pytest.fixture
def copies(folders, tmp_path):
    return {kind: shutil.copytree(folders[kind], tmp_path / kind) for kind in ("checkpoint", "model")}


@pytest.fixture
def load(folders, copies):
    tree = LabelTree.load(str(folders["tree"]))
    return lambda kind: load_model(str(copies[kind]), tree, Exchange(is_alone=True))


def change_manifest(folder, change):
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    make_checksums_fit(folder)


def change_tensor(folder, part, change):
    """Change the tensor whose name ends so."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = safetensors.torch.load_file(file)
        for name in tensors:
            if name.split("@")[0].endswith(part):
                change(tensors[name])
        safetensors.torch.save_file(tensors, file)
    make_checksums_fit(folder)


def set_step(step):
    def change(values):
        values["run"]["step"] = step
        values["run"]["row_schedule"]["step"] = float(step)

    return change


@pytest.mark.parametrize("step", [10**9, 2**31, 2**62, 23, 10**5])
def test_a_checkpoint_that_claims_more_steps_than_its_run_has_is_refused(copies, step):
    folder = copies["checkpoint"]
    change_manifest(folder, set_step(step))
    commit = json.loads((folder / "commit.json").read_text())
    (folder / "commit.json").write_text(json.dumps({**commit, "step": step}))
    with pytest.raises(DataError, match="is inconsistent with the run's other counts"):
        ShardReader(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(step=10**9, config={}, row_schedule={**run["row_schedule"], "step": 1e9}),
        lambda run: run.update(step=run["step"] - 1),
        lambda run: run["row_schedule"].update(step=1e9),
        lambda run: run.update(row_schedule={}),
        lambda run: run.update(width=48),
        lambda run: run.update(num_labels=10**15),
        lambda run: run.update(label_head="zero3"),
        lambda run: run["encoder"].update(num_hidden_layers=10**8),
        lambda run: run["encoder"].update(hidden_size=10**7),
        lambda run: run["encoder"].update(model_type="owner/code"),
        lambda run: run["config"]["model"].update(taps=["1+900", "2", "2"]),
    ],
)
def test_a_run_state_that_does_not_fit_is_refused_whatever_loads_it(copies, load, change):
    def change_both(values):
        change(values["run"])
        commit = json.loads((copies["checkpoint"] / "commit.json").read_text())
        (copies["checkpoint"] / "commit.json").write_text(json.dumps({**commit, "step": values["run"]["step"]}))

    change_manifest(copies["checkpoint"], change_both)
    with pytest.raises(CxmlError):
        load("checkpoint")


def test_a_commit_of_another_step_than_its_manifest_is_refused(copies):
    file = copies["checkpoint"] / "commit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "step": 3}))
    with pytest.raises(DataError, match="its step, metrics or best step differ from its commit"):
        ShardReader(str(copies["checkpoint"]))


@pytest.mark.parametrize("value", [2**31 - 1, -2_000_000, 100])
def test_steps_of_rows_that_lie_outside_the_schedule_are_refused(copies, load, value):
    change_tensor(copies["checkpoint"], "last_step", lambda steps: steps.__setitem__(0, value))
    with pytest.raises(DataError, match=r"values in .*last_step beyond its own step"):
        load("checkpoint")


@pytest.mark.parametrize("part", ["/weight", "/bias", "log_decay", "word_embeddings.weight", "cluster_heads.0.bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_checkpoint_with_numbers_that_are_not_finite_does_not_load(copies, load, part, value):
    change_tensor(copies["checkpoint"], part, lambda tensor: tensor.view(-1).__setitem__(-1, value))
    with pytest.raises(DataError, match="NaN or infinite"):
        load("checkpoint")


@pytest.mark.parametrize("part", ["weight", "bias", "word_embeddings.weight"])
def test_a_model_with_numbers_that_are_not_finite_does_not_load(copies, load, part):
    change_tensor(copies["model"], part, lambda tensor: tensor.view(-1).__setitem__(0, torch.nan))
    with pytest.raises(DataError, match="NaN or infinite"):
        load("model")


@pytest.mark.parametrize("positions", [2**62, -1, 0])
def test_label_rows_of_a_model_at_false_positions_are_refused(copies, load, positions):
    """Out of range, or one position twice."""
    change_tensor(copies["model"], "positions", lambda tensor: tensor.__setitem__(-1, positions))
    with pytest.raises(DataError, match=r"label rows|do not fit the tree's labels"):
        load("model")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["labels"].pop(),
        lambda values: values.update(labels=[]),
        lambda values: values.update(weights=values["labels"][0]),
        lambda values: values["weights"].update(file="../weights.safetensors"),
        lambda values: values["weights"].update(file="/dev/zero"),
        lambda values: values["encoder"].update(num_attention_heads=0),
        lambda values: values["encoder"].update(hidden_size=64),
        lambda values: values.update(encoder={}),
        lambda values: values.update(config=[]),
        lambda values: values.pop("labels"),
    ],
)
def test_a_manifest_of_a_model_that_does_not_fit_is_refused(copies, load, change):
    change_manifest(copies["model"], change)
    with pytest.raises(CxmlError):
        load("model")


def test_a_changed_field_of_a_models_manifest_is_noticed_though_it_fits(copies, load):
    file = copies["model"] / "manifest.json"
    values = json.loads(file.read_text())
    values["encoder"]["num_attention_heads"] = 2
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"manifest\.json: is damaged: its checksum"):
        load("model")


def test_folders_of_earlier_releases_without_a_checksum_in_the_manifest_load(copies, load):
    file = copies["model"] / "manifest.json"
    values = json.loads(file.read_text())
    del values["checksum"]
    file.write_text(json.dumps(values))
    assert load("model").label_head.rows.weight.isfinite().all()
