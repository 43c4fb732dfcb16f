"""`ray job stop` ends a training without leaving processes; the same job submitted again resumes it.

Oracle: losses and metrics of the same run started by the command on two processes.
"""

import subprocess
import sys

import psutil
import pytest
from support.launching import (
    BIN,
    ROOT,
    assert_same_run,
    launch,
    launch_environment,
    plain_run,
    wait_for_a_checkpoint,
    wait_until,
)

pytestmark = pytest.mark.slow  # two jobs, each of which starts the workers of Ray Train

EPOCHS = 6
SUBMIT = [str(BIN / "ray"), "job", "submit"]
TRAIN = ["--", sys.executable, "-m", "cxml.train", "--checkpoint.every-steps", "5", "--checkpoint.every-minutes", "0"]


def training_processes():
    """Drivers and workers of trainings on Ray."""
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "RayTrainWorker" in words or "-m cxml.train --checkpoint" in words:
            yield process


def test_a_stopped_job_leaves_no_process_and_its_successor_ends_as_if_it_had_not_been_stopped(job_server, tmp_path):
    expected, output, log = plain_run(tmp_path, EPOCHS), tmp_path / "stopped", tmp_path / "log.txt"

    def ray(*words):
        command = [str(BIN / "ray"), *words]
        environment = launch_environment(**job_server)
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        log.write_text(done.stdout + done.stderr)
        return log.read_text()

    options = ["--config", str(expected[0]), "--output", str(output)]
    ray("job", "submit", "--no-wait", "--submission-id", "first", *TRAIN, *options)
    wait_for_a_checkpoint(output, 10, log)
    ray("job", "stop", "first")
    wait_until(lambda: "was stopped" in ray("job", "status", "first"), "the job was not stopped")
    wait_until(lambda: not list(training_processes()), "the stopped job left processes running", seconds=60)
    assert not (output / "model" / "manifest.json").exists()
    done = launch([*SUBMIT, *TRAIN], output, expected[0], **job_server)
    assert "Resuming from" in done.stdout
    assert_same_run(output, expected)
