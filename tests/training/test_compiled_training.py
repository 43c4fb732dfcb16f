"""A training with a compiled encoder takes the steps of one without, and resumes bit for bit.

Oracle: the same training without the compiler.
"""

import numpy as np
import pytest
import safetensors.torch
import torch
from support.checkpoints import checkpointed, model_tensors, off, train_each
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config

from cxml.config import config_from_dict
from cxml.errors import ConfigError
from cxml.parallel import run_workers

STOP = 7
PLAIN = "not compiled"
ALONE = {
    PLAIN: {},
    "compiled": {"compile": True},
    "compiled, recomputed activations": {"compile": True, "activation_checkpointing": True},
    "compiled, deterministic": {"compile": True, "deterministic": True},  # last: it holds for the rest of the process
}
TOGETHER = {"compiled, ZeRO 2 on two processes": {"compile": True, "zero_stage": 2}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs without dropout, and one with dropout through and with a stop, by name."""
    folder = tmp_path_factory.mktemp("compiled")
    base = small_config(folder, make_encoder(folder / "encoder"), train={"epochs": 1})
    prepare_with_tree(base)
    dropout = {"encoder": make_encoder(folder / "with dropout", dropout=0.1)}
    through = off(checkpointed(base, folder / "through", model=dropout, train={"compile": True}))
    stopped = checkpointed(base, folder / "stopped", model=dropout, train={"compile": True})
    alone = [(through, None, "auto"), (stopped, STOP, "auto"), (stopped, None, "auto")]
    alone += [(off(checkpointed(base, folder / name, train=train)), None, "auto") for name, train in ALONE.items()]
    together = [(off(checkpointed(base, folder / name, train=train)), None, "auto") for name, train in TOGETHER.items()]
    assert run_workers(train_each, (alone,), 1) == [True, False, *(len(ALONE) + 1) * [True]]
    assert run_workers(train_each, (together,), 2) == [True]
    return folder


@pytest.mark.parametrize("name", [name for name in (*ALONE, *TOGETHER) if name != PLAIN])
def test_the_steps_are_those_of_a_training_that_is_not_compiled(runs, name):
    np.testing.assert_allclose(read_losses(runs / name), read_losses(runs / PLAIN), rtol=2e-4)
    expected = model_tensors(runs / PLAIN)
    for parameter, values in model_tensors(runs / name).items():
        torch.testing.assert_close(values, expected[parameter], rtol=1e-3, atol=2e-4, msg=parameter)


def test_files_name_the_weights_as_without_the_compiler(runs):
    found, expected = (
        safetensors.torch.load_file(runs / name / "model" / "weights.safetensors") for name in ("compiled", PLAIN)
    )
    assert found.keys() == expected.keys()


def test_a_compiled_training_that_stopped_goes_on_bit_by_bit(runs):
    expected = model_tensors(runs / "through")
    for parameter, values in model_tensors(runs / "stopped").items():
        assert torch.equal(values, expected[parameter]), parameter


def test_compilation_under_zero_3_is_refused_with_both_remedies():
    train = {"compile": True, "zero_stage": 3}
    with pytest.raises(ConfigError, match=r"train\.compile = True: .*zero_stage 3.*false, or train\.zero_stage to 2"):
        config_from_dict({"output": "x", "data": {"source": {"kind": "icd10cm"}}, "train": train})
