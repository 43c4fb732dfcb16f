"""Training without DeepSpeed gives the same model, and each engine resumes what the other saved.

Oracle: the same training with DeepSpeed.
"""

import json

import pytest
import torch
from support.checkpoints import checkpointed, model_tensors, off, train_each, train_each_plainly
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml.errors import ConfigError
from cxml.parallel import engine, require_engine, run_workers

STOP = 7
SETTINGS = {
    "fp32": {},
    "accumulated and clipped": {"train": {"accumulation": 2, "gradient_clipping": 0.05}},
    "a frozen layer": {"model": {"freeze_layers": 1}},
    "bf16": {"train": {"precision": "bf16"}},
    "ZeRO 1": {"train": {"zero_stage": 1}},
    "ZeRO 2, bf16": {"train": {"zero_stage": 2, "precision": "bf16"}},
    "zero3 head": {"train": {"zero_stage": 3}, "head": {"implementation": "zero3"}},
}
ROUNDED = {"ZeRO 1", "ZeRO 2, bf16", "zero3 head"}  # sums in other orders
TOGETHER = "two processes"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each setting trained with and without DeepSpeed, and stopped with one and gone on with the other, by name."""
    folder = tmp_path_factory.mktemp("plain")
    encoder = make_encoder(folder / "encoder", dropout=0.1)
    base = small_config(folder, encoder, train={"epochs": 1, "batch_size": 64}, log={"every_steps": 5})
    prepare_with_tree(base)
    with_it, without_it, onwards = [], [], {train_each: [], train_each_plainly: []}
    for name, parts in SETTINGS.items():
        for jobs, way, other in ((with_it, "deepspeed", train_each_plainly), (without_it, "plain", train_each)):
            jobs.append((off(checkpointed(base, folder / name / way, **parts)), None, "auto"))
            stopped = checkpointed(base, folder / name / f"begun {way}", **parts)
            jobs.append((stopped, STOP, "auto"))
            onwards[other].append((stopped, None, "auto"))
    assert run_workers(train_each, (with_it,), 1) == [True, False] * len(SETTINGS)
    assert run_workers(train_each_plainly, (without_it,), 1) == [True, False] * len(SETTINGS)
    for way, train in (("deepspeed", train_each), ("plain", train_each_plainly)):
        assert run_workers(train, ([(off(checkpointed(base, folder / TOGETHER / way)), None, "auto")],), 2) == [True]
    for way, jobs in onwards.items():
        assert all(run_workers(way, (jobs,), 1))
    return folder


@pytest.mark.parametrize("way", ["plain", "begun deepspeed", "begun plain"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_model_is_that_of_deepspeed(runs, name, way):
    found, expected = model_tensors(runs / name / way), model_tensors(runs / name / "deepspeed")
    assert found.keys() == expected.keys()
    for parameter, values in expected.items():
        if name == "ZeRO 2, bf16":  # the last bit of a weight hangs on the last bits of its fp32 copy
            torch.testing.assert_close(found[parameter], values, rtol=2**-7, atol=1e-3)
        elif name in ROUNDED:
            torch.testing.assert_close(found[parameter], values, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(found[parameter], values), parameter


@pytest.mark.parametrize("name", SETTINGS)
def test_both_engines_record_the_same_gradient_norms_before_clipping(runs, name):
    norms = []
    for way in ("plain", "deepspeed"):
        lines = (runs / name / way / "metrics.jsonl").read_text().splitlines()
        norms.append([json.loads(line)["gradient_norm"] for line in lines])
    assert norms[0] == pytest.approx(norms[1], rel=1e-2 if name == "bf16" else 1e-4)
    if name == "accumulated and clipped":
        assert min(norms[0]) > 0.05


def test_several_processes_train_without_deepspeed(runs):
    expected = model_tensors(runs / TOGETHER / "deepspeed")
    for parameter, values in model_tensors(runs / TOGETHER / "plain").items():
        assert torch.equal(values, expected[parameter]), parameter


def test_zero_on_several_processes_without_deepspeed_is_refused_with_both_remedies(monkeypatch):
    monkeypatch.setattr(engine.extras, "is_installed", lambda name: name != "deepspeed")
    require_engine(0, 2)
    require_engine(3, 1)
    with pytest.raises(ConfigError, match=r"train\.zero_stage = 2: .*pip install 'cxml\[train\]', or set it to 0"):
        require_engine(2, 2)
