"""Models and checkpoints of version 0.2.0 load, predict and resume as they did in that version.

In version 0.2.0, cluster levels were always parameters of the engine. The archive holds a run of 48 texts, 30 labels
and cluster levels of 3 and 9: its data, tree, encoder, final model and the checkpoint of step 9 of 24. Oracle: the
predictions that version 0.2.0 made from both (`expected.json`), and its final weights.
"""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.runs import FINGERPRINTS

from cxml.checkpoint import ShardReader, list_checkpoints
from cxml.checkpoint.row_arrays import SavedLevel
from cxml.checkpoint.row_state import whole_level
from cxml.parallel import run_workers
from cxml.prediction import Predictor

ARCHIVE = Path(__file__).parents[1] / "fixtures/version-0.2.0.zip"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The run's folder, which is the working directory: its config has relative paths."""
    zipfile.ZipFile(ARCHIVE).extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["run/model", "run/checkpoints/step-00000009-cdb47876"])
def test_models_and_checkpoints_predict_what_they_predicted(folder, part):
    expected = json.loads(Path("expected.json").read_text())[part]
    texts = [json.loads(line)["text"] for line in Path("raw/test.jsonl").read_text().splitlines()]
    found = Predictor.from_checkpoint(part, device="cpu", precision="fp32").predict(texts, k=5)
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-4)
    assert found.labels.tolist() == expected["labels"]


def resume(folder, shard_from, then_train):
    """On this rank: go on from the checkpoint; what the levels of clusters hold right after it was read."""
    from cxml.checkpoint import candidate_checkpoints
    from cxml.checkpoint import resume as go_on
    from cxml.config_files import load_config
    from cxml.parallel import ShardedLevel, distributed
    from cxml.pipeline.resolved_config import resolved
    from cxml.training.setting_up import set_up
    from cxml.training.train_job import train_in_group

    os.chdir(folder)
    with distributed(threads=1) as ranks:
        config = resolved(load_config("config.yaml"))  # it leaves fields out that had fixed defaults then
        head = dataclasses.replace(config.head, shard_from=shard_from)
        train = dataclasses.replace(config.train, num_workers=ranks.world_size)
        config = dataclasses.replace(config, head=head, train=train)
        offered = candidate_checkpoints(config, ranks, "auto")
        state, _ = set_up(config, ranks, offered)
        progress = go_on(state, offered)
        found = {}
        for level in state.model.cluster_levels:
            assert isinstance(level, ShardedLevel)
            number = len(state.tree.offsets) - len(state.model.cluster_levels) + len(found)
            positions = level.own_positions()
            found[number] = {
                "positions": positions.numpy(),
                **{name: tensor.numpy().copy() for name, tensor in vars(level.rows).items()},
            }  # fmt: skip
        heads = [head.weight.detach().numpy().copy() for head in state.model.cluster_heads]
        if then_train:
            train_in_group(config, FINGERPRINTS, ranks)
        gathered = [None] * ranks.world_size
        torch.distributed.all_gather_object(gathered, (progress.step, found, heads))
        return gathered


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_clusters_of_the_engine_become_sharded_rows_with_their_optimiser_state(folder, num_ranks):
    gathered = run_workers(resume, (str(folder), 2, True), num_ranks)
    reader = ShardReader("run/checkpoints/step-00000009-cdb47876")
    for level, size in ((0, 3), (1, 9)):
        seen = []
        for step, found, heads in gathered:
            assert step == 9
            assert not heads
            own = found[level]
            seen += own["positions"].tolist()
            for name, saved in (
                ("weight", "model/cluster_heads.{}.weight"),
                ("moment", "optimizer/exp_avg/cluster_heads.{}.weight"),
                ("second", "optimizer/exp_avg_sq/cluster_heads.{}.weight"),
                ("bias", "model/cluster_heads.{}.bias"),
            ):
                whole = reader.tensor(saved.format(level)).numpy().reshape(size, *own[name].shape[1:])
                np.testing.assert_array_equal(own[name], whole[own["positions"]])
            assert (own["updates"] == 9).all()
        assert sorted(seen) == list(range(size))
    trained = safetensors.torch.load_file("run/model/weights.safetensors")
    assert trained["cluster_heads.1.weight"].shape == (9, 16)
    assert all(values.isfinite().all() for values in trained.values())
    assert len(Predictor.from_checkpoint("run/model", device="cpu").predict(["red blue"], k=3).labels[0]) == 3


def test_a_run_with_the_same_settings_ends_where_it_ended_before(folder):
    expected = safetensors.torch.load_file("run/model/weights.safetensors")
    run_workers(resume, (str(folder), 100, True), 1)
    found = safetensors.torch.load_file("run/model/weights.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4, msg=name)


def test_rows_that_were_sharded_become_the_engines_again(folder):
    run_workers(resume, (str(folder), 2, True), 1)
    last = max(list_checkpoints("run/checkpoints"), key=lambda entry: entry.step)
    assert last.step == 18
    ((step, found, heads),) = run_workers(resume, (str(folder), 100, True), 1)
    assert (step, found) == (18, {})
    for level, (head, size) in enumerate(zip(heads, (3, 9), strict=True)):
        saved = SavedLevel.clusters(level, size, 16)
        reader = ShardReader(last.url)
        assert not saved.are_parameters(reader)
        np.testing.assert_array_equal(head, whole_level(reader, saved)[0].numpy())
