"""`train.precision: auto`: all processes compute in the same number format, and a run keeps the one it started in.

Oracles: processes that claim different machines, and the processor's features as Linux lists them.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from support.checkpoints import checkpointed, train_each
from support.runs import make_encoder, prepare_with_tree, small_config
from support.small_runs import here, small_values, write_rows

from cxml import pipeline
from cxml.accelerators import fast_precision
from cxml.checkpoint import list_checkpoints, model_url, read_checkpoint_manifest, read_model_manifest
from cxml.config import config_from_dict
from cxml.errors import StaleArtefactError
from cxml.parallel import distributed, run_workers
from cxml.training import precision, set_up, train_step

STOP = 3


def pretend(kind):
    """Let this process compute fast in some format."""
    precision.fast_precision = lambda _: kind


def resolved(config, cases):
    """For processes of each of these kinds: the precision that they agree on, and the dtype of a trained encoder."""
    found = []
    with distributed(threads=1) as ranks:
        for kinds in cases:
            pretend(kinds[ranks.rank])
            state, schedule = set_up(config, ranks)
            schedule.apply(0)
            train_step(state.engine, next(iter(state.loader.epoch(0))), ranks)
            found.append((state.config.train.precision, str(state.model.encoder.transformer.dtype)))
    return found


def train_as(kinds, configs):
    """Train each config as one kind of machine, stop, and go on as the other; the precisions that are saved."""
    saved = {}
    with distributed(threads=1):
        for (began, goes_on), config in zip(kinds, configs, strict=True):
            pretend(began)
            assert train_each([(config, STOP, "auto")]) == [False]
            entry = list_checkpoints(f"{config.output}/checkpoints")[0]
            pretend(goes_on)
            assert train_each([(config, None, "auto")]) == [True]
            manifest = read_model_manifest(model_url(config))
            saved[began] = [
                each["train"]["precision"] for each in (read_checkpoint_manifest(entry.url).run.config, manifest.config)
            ]
    return saved


@pytest.fixture(scope="module")
def auto(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    encoder = make_encoder(folder / "encoder")
    config = small_config(folder, encoder, train={"precision": "auto", "epochs": 1, "batch_size": 128})
    prepare_with_tree(config)
    return config


def test_processes_train_in_bf16_where_all_of_them_compute_fast_in_it(auto):
    in_bf16, in_fp32 = ("bf16", "torch.bfloat16"), ("fp32", "torch.float32")
    assert run_workers(resolved, (auto, [["bf16", "bf16"], ["bf16", "fp32"], ["fp32", "fp32"]]), 2) == [
        in_bf16, in_fp32, in_fp32
    ]  # fmt: skip


def test_a_run_that_goes_on_keeps_the_precision_in_which_it_began(auto, tmp_path):
    kinds = [("bf16", "fp32"), ("fp32", "bf16")]
    configs = [checkpointed(auto, tmp_path / began) for began, _ in kinds]
    saved = run_workers(train_as, (kinds, configs), 1)
    assert saved == {"bf16": ["bf16", "bf16"], "fp32": ["fp32", "fp32"]}


def run_thrice(values, found):
    """Train with `auto`, which finds `found`; then ask for the run with each precision."""
    answers = {}
    with distributed(threads=1):
        pretend(found)
        pipeline.run(config_from_dict(values), run_job=here)
        for asked in ("auto", "fp32", "bf16"):
            config = config_from_dict({**values, "train": {**values["train"], "precision": asked}})
            try:
                pipeline.run(config, run_job=here)
                answers[asked] = "reused"
            except StaleArtefactError:
                answers[asked] = "refused"
    return answers


def test_a_model_that_auto_trained_is_one_of_the_precision_that_it_took(tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    raw = write_rows(tmp_path / "raw", 12, 24)
    values = small_values(tmp_path / "run", encoder, raw, train={"precision": "auto"}, tree={"level_sizes": [4]})
    answers = run_workers(run_thrice, (values, "bf16"), 1)
    assert answers == {"auto": "reused", "fp32": "refused", "bf16": "reused"}


def test_a_processor_computes_fast_in_bf16_if_it_has_amx_or_is_amd_s_with_instructions_for_it():
    listed = Path("/proc/cpuinfo")
    if not listed.exists() or "flags" not in listed.read_text():
        pytest.skip("this system does not list the processor's features")
    words = set(listed.read_text().split())
    is_fast = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    assert fast_precision(torch.device("cpu")) == ("bf16" if is_fast else "fp32")


@pytest.mark.parametrize(("amx", "avx512", "vendor", "expected"), [
    (True, True, "GenuineIntel", "bf16"), (False, True, "GenuineIntel", "fp32"), (False, True, "AuthenticAMD", "bf16"),
    (False, False, "AuthenticAMD", "fp32"), (False, True, "", "fp32"),
])  # fmt: skip
def test_processors_with_other_features_have_their_fast_precision(monkeypatch, amx, avx512, vendor, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr("cxml.operating_system.processor_vendor", lambda: vendor)
    assert fast_precision(torch.device("cpu")) == expected


def test_recomputed_activations_give_the_gradient_of_kept_ones_in_bf16(auto):
    compared = run_workers(compare_gradients, (auto,), 1)
    assert compared
    assert all(compared.values()), compared


def compare_gradients(config):
    """Whether each weight has the same gradient with activations that are kept and computed again."""
    found = []
    with distributed(threads=1) as ranks:
        for recompute in (False, True):
            train = dataclasses.replace(config.train, precision="bf16", activation_checkpointing=recompute)
            state, _ = set_up(dataclasses.replace(config, train=train), ranks)
            state.engine.train()
            (batch,) = next(iter(state.loader.epoch(0)))
            weights = list(state.model.encoder.parameters())
            found.append(torch.autograd.grad(state.model(batch)[0], weights))
        names = [name for name, _ in state.model.encoder.named_parameters()]
    return {name: torch.equal(kept, again) for name, kept, again in zip(names, *found, strict=True)}
