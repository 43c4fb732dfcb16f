"""A training step is the same for any number of processes, ZeRO stage and number of micro-batches.

Oracle: losses and weights of the same run on one process.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config, train_one_after_the_other

from cxml.parallel import run_workers

TWO_PROCESSES = {
    "two processes": {},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "two micro-batches each": {"accumulation": 2},
    "ZeRO 2, two micro-batches each": {"zero_stage": 2, "accumulation": 2},
    "ZeRO 3, evaluated on the way": {"zero_stage": 3, "evaluate_every": 1},
}
ONE_PROCESS = {
    "reference": {},
    "four micro-batches": {"accumulation": 4},
    "recomputed activations": {"activation_checkpointing": True},
    "deterministic": {"deterministic": True},
}
BF16 = {"bf16": {"precision": "bf16"}, "bf16, ZeRO 2": {"precision": "bf16", "zero_stage": 2}}
BOTTLENECKS = {
    "ZeRO 1, sharded clusters": {"train": {"zero_stage": 1}, "head": {"shard_from": 4}},
    "ZeRO 3, all labels": {"train": {"zero_stage": 3}, "head": {"candidates": "all"}},
    "two micro-batches each": {"train": {"accumulation": 2}},
}
FROZEN = "frozen layer"
COPIES = "a copy of the label rows in each process"


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Makes configs of runs on the same data and tree, each in an output folder of its own name."""
    folder = tmp_path_factory.mktemp("parity")
    base = small_config(folder, make_encoder(folder / "encoder"), train={"epochs": 1})
    prepare_with_tree(base)

    def make(name, train, model=None, head=None):
        return dataclasses.replace(
            base,
            output=str(folder / name),
            data=dataclasses.replace(base.data, directory=str(folder / "data")),
            tree=dataclasses.replace(base.tree, directory=str(folder / "tree")),
            train=dataclasses.replace(base.train, **train),
            model=dataclasses.replace(base.model, **model or {}),
            head=dataclasses.replace(base.head, **head or {}),
        )

    return make


@pytest.fixture(scope="module")
def runs(variant):
    """All variants, trained one after the other: the output folder of each by name."""
    alone = [variant(name, train) for name, train in ONE_PROCESS.items()]
    alone.append(variant(FROZEN, {}, model={"freeze_layers": 1}))
    zero3 = {"train": {"zero_stage": 3}, "head": {"implementation": "zero3"}}
    alone.append(variant("zero3 head, one process", **zero3))
    together = [variant(name, train) for name, train in (TWO_PROCESSES | BF16).items()]
    together.append(variant("zero3 head, two processes", **zero3))
    together.append(variant(COPIES, {}, head={"group_size": 1}))
    every_label = {"head": {"candidates": "all"}, "train": {}}
    alone.append(variant("all labels, one process", **every_label))
    together.append(variant("all labels, two processes", **every_label))
    clusters = {"head": {"shard_from": 4}, "train": {}}
    alone.append(variant("sharded clusters, one process", **clusters))
    for number, narrow in enumerate(BOTTLENECKS.values()):
        settings = {"model": {"bottleneck": 8}, "head": narrow.get("head"), "train": {}}
        alone.append(variant(f"bottleneck {number}, one process", **settings))
        together.append(variant(f"bottleneck {number}, two processes", **settings | {"train": narrow["train"]}))
    together.append(variant("sharded clusters, two processes", **clusters))
    alone.sort(key=lambda config: config.train.deterministic)  # it holds for the rest of the process
    run_workers(train_one_after_the_other, (alone,), 1)
    run_workers(train_one_after_the_other, (together,), 2)
    return {Path(config.output).name: Path(config.output) for config in alone + together} | {
        "base": Path(alone[0].output).parent
    }


def losses(folder):
    return np.array(read_losses(folder))


def weights(folder):
    return safetensors.torch.load_file(folder / "model" / "weights.safetensors")


def label_rows(folder):
    """The label rows of all files, in tree order."""
    parts = [safetensors.torch.load_file(file) for file in sorted((folder / "model").glob("labels-*"))]
    order = torch.argsort(torch.cat([part["positions"] for part in parts]))
    return {name: torch.cat([part[name] for part in parts])[order] for name in ("weight", "bias")}


@pytest.mark.parametrize("name", [*TWO_PROCESSES, *ONE_PROCESS, COPIES])
def test_every_way_to_spread_a_step_gives_the_same_losses_and_weights(runs, name):
    np.testing.assert_allclose(losses(runs[name]), losses(runs["reference"]), rtol=2e-4)
    found = weights(runs[name]) | label_rows(runs[name])
    for parameter, expected in (weights(runs["reference"]) | label_rows(runs["reference"])).items():
        torch.testing.assert_close(found[parameter], expected, rtol=1e-3, atol=2e-4, msg=parameter)


def test_the_zero3_head_takes_the_same_steps_on_two_processes_as_on_one(runs):
    one, two = runs["zero3 head, one process"], runs["zero3 head, two processes"]
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-4)
    rows = [safetensors.torch.load_file(run / "model" / "labels-00000.safetensors") for run in (one, two)]
    for name, tensor in rows[0].items():
        torch.testing.assert_close(rows[1][name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_with_all_labels_scored_two_processes_take_the_steps_of_one(runs):
    one, two = runs["all labels, one process"], runs["all labels, two processes"]
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-4)
    expected = weights(one) | label_rows(one)
    for parameter, found in (weights(two) | label_rows(two)).items():
        torch.testing.assert_close(found, expected[parameter], rtol=1e-3, atol=2e-4, msg=parameter)
    assert losses(one)[-5:, -1].mean() < losses(one)[:5, -1].mean()


def assert_same_run(found, expected):
    np.testing.assert_allclose(losses(found), losses(expected), rtol=2e-4)
    whole = weights(expected) | label_rows(expected)
    for parameter, values in (weights(found) | label_rows(found)).items():
        torch.testing.assert_close(values, whole[parameter], rtol=1e-3, atol=2e-4, msg=parameter)


def test_with_sharded_clusters_two_processes_take_the_steps_of_one(runs):
    one = runs["sharded clusters, one process"]
    assert_same_run(runs["sharded clusters, two processes"], one)
    assert (losses(one)[-5:].mean(0) < losses(one)[:5].mean(0)).all()
    assert weights(one).keys() == weights(runs["reference"]).keys(), "a saved model has the same form"


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_with_a_bottleneck_two_processes_take_the_steps_of_one(runs, name):
    number = list(BOTTLENECKS).index(name)
    one = runs[f"bottleneck {number}, one process"]
    assert_same_run(runs[f"bottleneck {number}, two processes"], one)
    narrow = weights(one)["encoder.bottleneck.weight"]
    assert narrow.shape == (8, 32)
    assert label_rows(one)["weight"].shape[1] == 8
    assert (narrow @ narrow.T - 4 * torch.eye(8)).abs().max() > 1e-3, "the map has learnt: it began orthogonal"


@pytest.mark.slow
def test_eight_processes_take_the_steps_of_one(variant):
    settings = {"labels alone": {}, "clusters too": {"shard_from": 4}, "replicas": {"shard_from": 4, "group_size": 4}}
    alone = [variant(f"one, {name}", {}, head=head) for name, head in settings.items() if "group_size" not in head]
    together = [variant(f"eight, {name}", {}, head=head) for name, head in settings.items()]
    run_workers(train_one_after_the_other, (alone,), 1)
    run_workers(train_one_after_the_other, (together,), 8)
    labels_alone, clusters_too = (Path(config.output) for config in alone)
    expected = (labels_alone, clusters_too, clusters_too)
    for config, one in zip(together, expected, strict=True):
        assert_same_run(Path(config.output), one)


@pytest.mark.parametrize("name", BF16)
def test_bf16_training_follows_fp32_and_saves_bf16_weights(runs, name):
    assert {tensor.dtype for tensor in weights(runs[name]).values()} == {torch.bfloat16}
    np.testing.assert_allclose(losses(runs[name]).sum(1), losses(runs["reference"]).sum(1), rtol=0.05)


def test_the_loss_falls_on_every_level(runs):
    by_step = losses(runs["reference"])
    assert (by_step[-5:].mean(0) < by_step[:5].mean(0)).all()


def test_frozen_layers_and_embeddings_keep_their_weights(runs):
    found, pretrained = weights(runs[FROZEN]), safetensors.torch.load_file(runs["base"] / "encoder/model.safetensors")
    changed = {
        name
        for name, tensor in pretrained.items()
        if not name.startswith("pooler") and not torch.equal(found[f"encoder.transformer.{name}"], tensor)
    }
    assert {name.split(".")[2] for name in changed} == {"1"}
    assert len(changed) == len([name for name in pretrained if name.startswith("encoder.layer.1.")])
