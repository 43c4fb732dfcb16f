"""After a Ray Train worker is killed, the run resumes from its newest checkpoint and ends as an undisturbed run.

Oracle: losses and metrics of the same run started by the command on two processes.
"""

import contextlib
import signal
import subprocess
import sys

import psutil
import pytest
from support.launching import ROOT, assert_same_run, launch_environment, plain_run, wait_for_a_checkpoint
from support.ray import one_at_a_time

pytestmark = pytest.mark.slow  # Ray Train takes half a minute to notice and to start again

EPOCHS = 6


def training_workers(driver):
    """Processes of Ray Train's workers below a driver."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                yield process


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path):
    expected = plain_run(tmp_path, EPOCHS)
    output = tmp_path / "killed"
    command = [
        sys.executable, "-m", "cxml.train", "--config", str(expected[0]), "--output", str(output),
        "--launch.launcher", "ray", "--launch.cpus-per-worker", "0.5",
        "--checkpoint.every-steps", "5", "--checkpoint.every-minutes", "0",
    ]  # fmt: skip
    environment, log_file = launch_environment(RAY_AUTH_MODE="disabled"), tmp_path / "log.txt"
    with one_at_a_time(), log_file.open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for_a_checkpoint(output, 10, log_file, driver)
            victim = list(training_workers(driver))[-1]
            victim.send_signal(signal.SIGKILL)
            was_unfinished = not (output / "model" / "manifest.json").exists()
            assert driver.wait(timeout=300) == 0, log_file.read_text()[-3000:]
        finally:
            driver.kill()
    assert was_unfinished
    assert_same_run(output, expected)
    assert "Resuming from" in log_file.read_text()
