"""Starts the same run with different launchers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cxml.artefacts import read_json
from cxml.checkpoint import list_checkpoints
from cxml.config import config_to_dict
from cxml.pipeline import run
from support.runs import make_encoder, read_losses, small_config

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
STEPS = 20


def plain_run(folder, epochs):
    """Run two processes that the command itself starts. Returns the config file, the losses and the metrics."""
    train = {"epochs": epochs, "num_workers": 2}
    config = small_config(folder / "here", make_encoder(folder / "encoder"), train=train)
    run(config)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    return file, read_losses(folder / "here"), read_json(str(folder / "here" / "report.json"), "")["levels"]


def launch_environment(**more):
    """An environment in which launchers find the programs of this virtual environment and this checkout."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def launch(command, output, config_file, **environment):
    """Run a launcher to its end, which must succeed. Returns the completed process."""
    words = [*command, "--config", str(config_file), "--output", str(output)]
    done = subprocess.run(
        words, env=launch_environment(**environment), cwd=ROOT, capture_output=True, text=True, timeout=300,
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


def wait_for_a_checkpoint(output, step, log, process=None):
    """Wait until a run has a checkpoint of this step or a later one. `process`, if given, must not end before."""

    def is_there():
        assert process is None or process.poll() is None, log.read_text()[-3000:]
        return max((entry.step for entry in list_checkpoints(str(output / "checkpoints"))), default=0) >= step

    wait_until(is_there, "no checkpoint came")


def wait_until(is_so, otherwise, seconds=400):
    """Poll until `is_so` returns true. Fails with the message `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
