"""The same run started in four ways: real launchers, a real Ray cluster with its job server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from tests.support.object_store import free_ports
from tests.support.runs import make_encoder, read_losses, small_config

from cxml.config import config_to_dict
from cxml.pipeline import run
from cxml.storage import read_json

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
STEPS = 20


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A config file, and the losses and metrics of two processes that the command itself starts."""
    folder = tmp_path_factory.mktemp("launching")
    config = small_config(folder / "here", make_encoder(folder / "encoder"), train={"epochs": 1, "num_workers": 2})
    run(config)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    losses = read_losses(folder / "here")
    assert len(losses) >= STEPS
    return file, losses, read_json(str(folder / "here" / "report.json"), "")["levels"]


def launch(command, output, config_file, **environment):
    """Run a launcher to its end; its output on failure."""
    words = [*command, "--config", str(config_file), "--output", str(output)]
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, env={**os.environ, **path, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def assert_same_run(output, expected):
    _, losses, levels = expected
    found = read_losses(output)
    assert len(found) == len(losses)
    for one, other in zip(found, losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(read_json(str(output / "report.json"), "")["levels"], levels, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_torchrun_takes_the_same_steps(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={port}", "launch/train.py"]
    launch(launcher, tmp_path / "run", expected[0])
    assert_same_run(tmp_path / "run", expected)


def test_the_deepspeed_launcher_takes_the_same_steps(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "deepspeed"), "--num_gpus=2", f"--master_port={port}", "launch/train.py"]
    launch(launcher, tmp_path / "run", expected[0])
    assert_same_run(tmp_path / "run", expected)
