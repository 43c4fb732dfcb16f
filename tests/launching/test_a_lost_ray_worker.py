"""A worker of Ray Train is killed: the run goes on from its newest checkpoint and ends as if nothing had happened."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from cxml.checkpoint import list_checkpoints
from cxml.config import config_to_dict
from cxml.pipeline import run
from cxml.storage import read_json
from tests.support.launching import ROOT, assert_same_run
from tests.support.ray import one_at_a_time
from tests.support.runs import make_encoder, read_losses, small_config

pytestmark = pytest.mark.slow  # Ray Train takes half a minute to notice and to start again

EPOCHS = 6


def training_workers(driver):
    """Processes of Ray Train's workers below a driver."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                yield process


def newest_checkpoint(output):
    return max((entry.step for entry in list_checkpoints(str(output / "checkpoints"))), default=0)


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path):
    train = {"epochs": EPOCHS, "num_workers": 2}
    config = small_config(tmp_path / "calm", make_encoder(tmp_path / "encoder"), train=train)
    run(config)
    expected = None, read_losses(tmp_path / "calm"), read_json(str(tmp_path / "calm" / "report.json"), "")["levels"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    output = tmp_path / "killed"
    command = [
        sys.executable, "-m", "cxml.train", "--config", str(file), "--output", str(output), "--launch.launcher", "ray",
        "--launch.cpus-per-worker", "0.5", "--checkpoint.every-steps", "5", "--checkpoint.every-minutes", "0",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    with one_at_a_time(), (tmp_path / "log.txt").open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 200
            while newest_checkpoint(output) < 10:
                assert driver.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
                assert time.monotonic() < deadline, "no checkpoint came"
                time.sleep(0.05)
            victim = list(training_workers(driver))[-1]
            victim.send_signal(signal.SIGKILL)
            was_unfinished = not (output / "model" / "manifest.json").exists()
            assert driver.wait(timeout=300) == 0, (tmp_path / "log.txt").read_text()[-3000:]
        finally:
            driver.kill()
    assert was_unfinished
    assert_same_run(output, expected)
    assert "Going on from" in (tmp_path / "log.txt").read_text()
