"""A training whose numbers overflow stops at that step on all ranks; no row, checkpoint or model holds such numbers.

Oracle: the rows before the step, bit for bit, and the tensors of every saved file.
"""

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.checkpoints import checkpointed
from support.diverging import train_until_it_fails
from support.heads import level_of, make_problem
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml.accelerators import device_of
from cxml.checkpoint import list_checkpoints
from cxml.config import HeadConfig, OptimConfig
from cxml.data import ShardedDataset
from cxml.parallel import Exchange, RowLayout, run_workers

HEADS = {
    "AdamW": ("cpu", HeadConfig(), 1),
    "SGD": ("cpu", HeadConfig(optimizer="sgd"), 1),
    "bf16": ("cpu", HeadConfig(weights="bf16", second_moment="row"), 1),
    "fp8": ("cpu", HeadConfig(weights="fp8", optimizer="sgd"), 1),
    "two micro-batches": ("cpu", HeadConfig(), 2),
    "two micro-batches, SGD": ("cpu", HeadConfig(optimizer="sgd"), 2),
    "clipped": ("cpu", HeadConfig(clip_global_norm=0.1), 1),
    "plain": ("torch", HeadConfig(), 1),
    "kernels": ("triton", HeadConfig(), 1),
    "all labels": ("cpu", HeadConfig(candidates="all"), 1),
    "all labels, two micro-batches": ("cpu", HeadConfig(candidates="all"), 2),
    "all labels, kernels": ("triton", HeadConfig(candidates="all"), 1),
}
FAULTS = {
    "features are NaN": {"feature": np.nan},
    "features are infinite": {"feature": -np.inf},
    "logits overflow": {"feature": 1e38, "row": 1e3},
    "squares of gradients overflow": {"feature": 1e25},
    "a row is NaN": {"row": np.nan},
    "a row is infinite": {"row": np.inf},
    "a bias is NaN": {"bias": np.nan},
    "the update overflows": {"lr": 1e38},
    "a level above is NaN": {"above": np.nan},
    "a level above is infinite": {"above": np.inf},
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_row_changes_in_a_step_that_is_not_finite(name, fault):
    kind, config, accumulation = HEADS[name]
    if kind == "triton":
        pytest.importorskip("triton")
    given = FAULTS[fault]
    offsets, weight, bias, steps = make_problem(3, 4, (3,))
    weight[0, 0], bias[0] = given.get("row", weight[0, 0]), given.get("bias", bias[0])
    without_decay = OptimConfig(classifier_weight_decay=0)
    layout = RowLayout.round_robin(offsets, 0, 1)
    exchange = Exchange(is_alone=True)
    head = level_of(kind, layout, weight.shape[1], exchange, config, without_decay, accumulation=accumulation)
    head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
    head.schedule.begin_step(given.get("lr", 1e-3), 0.9)
    before = copy.deepcopy(vars(head.rows))
    features, leaves, keys = steps[0][0]
    features[1, 2] = given.get("feature", 1.0)
    device = device_of(0) if kind == "triton" else "cpu"
    above = [torch.tensor(0.3), torch.tensor(given.get("above", 0.5))]
    loss = head.loss(torch.from_numpy(features).to(device).requires_grad_(), leaves, keys, 1 / 3, losses_above=above)
    is_finite = loss.isfinite() & above[1].isfinite()
    is_bounded = head.is_bounded()
    head.finish_step(is_finite if is_bounded is None else is_finite & is_bounded)
    torch.testing.assert_close(vars(head.rows), before, rtol=0, atol=0, equal_nan=True)
    assert "above" in given or is_bounded is not None or not loss.isfinite()


@pytest.mark.parametrize("name", HEADS)
def test_healthy_steps_of_any_usual_rate_are_taken(name):
    kind, config, accumulation = HEADS[name]
    if kind == "triton":
        pytest.importorskip("triton")
    for lr in (1e-6, 1e-3, 1.0, 1e4):
        offsets, weight, _bias, steps = make_problem(3, 4, (3,))
        layout = RowLayout.round_robin(offsets, 0, 1)
        head = level_of(
            kind, layout, weight.shape[1], Exchange(is_alone=True), config, OptimConfig(classifier_weight_decay=0),
            accumulation=accumulation,
        )  # fmt: skip
        features, leaves, keys = steps[0][0]
        device = device_of(0) if kind == "triton" else "cpu"
        for _ in range(3):
            head.schedule.begin_step(lr, 0.9)
            loss = head.loss(
                torch.from_numpy(features).to(device), leaves, keys, 1 / 3, losses_above=[torch.tensor(1e6)]
            )
            is_bounded = head.is_bounded()
            assert is_bounded is None or is_bounded
            head.finish_step(torch.tensor(True))
            assert loss.isfinite()
        assert (head.rows.updates == 3).any()


HUGE = {"encoder_lr": 1e15, "classifier_lr": 1e15, "classifier_weight_decay": 0.0, "encoder_weight_decay": 0.0}
RUNS = {
    "AdamW": {},
    "SGD": {"head": {"optimizer": "sgd"}},
    "bf16": {"train": {"precision": "bf16"}},
    "bf16, ZeRO 2": {"train": {"precision": "bf16", "zero_stage": 2}},
    "ZeRO 3": {"train": {"zero_stage": 3}},
    "zero3 head": {"train": {"zero_stage": 3}, "head": {"implementation": "zero3"}},
    "two micro-batches": {"train": {"accumulation": 2}},
    "replicas of the rows": {"head": {"group_size": 1}},
    "all labels": {"head": {"candidates": "all"}},
    "centroids": {"model": {"classifier_start": "centroids"}},
    "no clipping": {"train": {"gradient_clipping": 0.0}},
}
EVEN_LARGER = "a rate of 1e30"
POISONED, POISONED_AT_THE_END = "a weight becomes NaN", "a weight becomes NaN in the last step"
POISONED_GRADIENT = "a gradient becomes NaN"
ENGINES = ["AdamW", "no clipping", "two micro-batches", "bf16", "bf16, ZeRO 2", "ZeRO 3"]
STARTS = {"an encoder of NaN": {}, "centroids of an encoder of NaN": {"model": {"classifier_start": "centroids"}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name the config of each run on two processes, and what its ranks raised."""
    folder = tmp_path_factory.mktemp("divergence")
    base = small_config(folder, make_encoder(folder / "encoder"), train={"epochs": 1})
    prepare_with_tree(base)
    broken = folder / "broken"
    make_encoder(broken)
    tensors = safetensors.torch.load_file(broken / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] = torch.nan
    safetensors.torch.save_file(tensors, broken / "model.safetensors", {"format": "pt"})

    def variant(name, parts):
        optim = {**HUGE, **parts.get("optim", {})}
        config = checkpointed(base, folder / name, **{**parts, "optim": optim})
        checkpoint = dataclasses.replace(config.checkpoint, every_steps=1)
        return dataclasses.replace(config, checkpoint=checkpoint)

    jobs = {name: (variant(name, parts), 0, "weight") for name, parts in RUNS.items()}
    jobs[EVEN_LARGER] = variant(EVEN_LARGER, {"optim": {"encoder_lr": 1e30, "classifier_lr": 1e30}}), 0, "weight"
    calm = dataclasses.asdict(OptimConfig())
    for name, parts in STARTS.items():
        model = {"encoder": str(broken), **parts.get("model", {})}
        jobs[name] = variant(name, {"optim": calm, "model": model}), 0, "weight"
    jobs[POISONED] = variant(POISONED, {"optim": calm}), 3, "weight"
    for name in ENGINES:
        parts = {**RUNS[name], "optim": calm}
        jobs[f"{name}: {POISONED_GRADIENT}"] = variant(f"{name} gradient", parts), 3, "gradient"
    num_steps = -(-ShardedDataset(f"{folder}/data", "train").manifest.rows("train") // base.train.batch_size)
    last = variant(POISONED_AT_THE_END, {"optim": calm, "train": {"epochs": 1}})
    jobs[POISONED_AT_THE_END] = last, num_steps, "weight"
    found = run_workers(train_until_it_fails, (list(jobs.values()),), 2)
    return {name: (config, errors) for (name, (config, *_)), errors in zip(jobs.items(), found, strict=True)}


@pytest.mark.parametrize("name", [*RUNS, EVEN_LARGER])
def test_a_rate_that_is_far_too_high_ends_training_with_one_error(runs, name):
    config, errors = runs[name]
    assert len(set(errors)) == 1, "all ranks say the same"
    kind, text = errors[0]
    assert kind == "DivergenceError"
    step = int(re.search(r"step (\d+) ", text)[1])
    assert (1 if name == EVEN_LARGER else 2) <= step < 8
    assert "optim.encoder_lr" in text
    assert "nor are those of the 2 step(s) after it" in text
    assert not Path(config.output, "model").exists()
    saved = list_checkpoints(f"{config.output}/checkpoints")
    assert all(entry.step < step + 2 for entry in saved), "of the two steps that changed nothing"
    assert_finite(config.output)


@pytest.mark.parametrize("name", ENGINES)
def test_a_gradient_that_is_not_finite_changes_no_weight(runs, name):
    config, errors = runs[f"{name}: {POISONED_GRADIENT}"]
    assert len(set(errors)) == 1, "all ranks say the same"
    assert "gradients or updates of step 3 are not finite, nor are those of the 2 step(s) after it" in errors[0][1]
    assert_finite(config.output)


@pytest.mark.parametrize("name", STARTS)
def test_weights_that_are_nan_from_the_start_are_named_at_the_first_step(runs, name):
    config, errors = runs[name]
    assert len(set(errors)) == 1
    kind, text = errors[0]
    assert kind == "DivergenceError"
    assert "Losses of step 1 are level 0 nan" in text
    assert "model.start_from" in text
    assert not list_checkpoints(f"{config.output}/checkpoints")


def test_a_weight_that_becomes_nan_ends_training_at_the_next_step(runs):
    config, errors = runs[POISONED]
    assert len(set(errors)) == 1
    assert "updates of step 4 are not finite" in errors[0][1]
    assert_finite(config.output)


def test_a_model_that_is_not_finite_is_not_saved(runs):
    config, errors = runs[POISONED_AT_THE_END]
    assert len(set(errors)) == 1
    kind, text = errors[0]
    assert kind == "DivergenceError"
    assert "contains values that are not finite, so it is not saved" in text
    assert not Path(config.output, "model").exists()
    assert_finite(config.output)


def assert_finite(output):
    """All checkpoints that are committed."""
    for entry in list_checkpoints(f"{output}/checkpoints"):
        for file in Path(entry.url).glob("*.safetensors"):
            for name, tensor in safetensors.torch.load_file(file).items():
                values = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
                assert values.isfinite().all(), f"{file}: {name}"
