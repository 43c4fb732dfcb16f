"""Open MPI and Slurm (two nodes on this machine), where installed, compute the steps of the command itself.

Oracle: losses and metrics of the same run started by the command on two processes.
"""

import os
import shutil
import subprocess
import sys

import pytest
from support import slurm
from support.launching import ROOT, assert_same_run, launch, plain_run, wait_for_a_checkpoint, wait_until
from support.object_store import free_ports


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")
def test_mpirun_takes_the_same_steps(expected, tmp_path):
    (port,) = free_ports(1)
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    passed_on = [word for name in (*here, "OMP_NUM_THREADS") for word in ("-x", name)]
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", *passed_on, sys.executable]
    launch([*launcher, "launch/train.py"], tmp_path / "run", expected[0], **here)
    assert_same_run(tmp_path / "run", expected)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [program for program in slurm.PROGRAMS if slurm.find(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"Slurm cannot be started: {missing or 'not root'}")
    with slurm.slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def submit(cluster, config_file, output, log, *words):
    """Hand the project's batch script to `sbatch`; what it says."""
    (port,) = free_ports(1)
    environment = {
        **cluster, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT), "CXML_ROOT": str(ROOT),
    }  # fmt: skip
    job = [
        "sbatch", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}",
        *words, "launch/slurm/train.sbatch", "--config", str(config_file), "--output", str(output),
        "--checkpoint.every-steps", "5", "--checkpoint.every-minutes", "0",
    ]  # fmt: skip
    done = subprocess.run(job, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    return done.stdout.strip()


def test_a_slurm_job_on_two_nodes_takes_the_same_steps(expected, cluster, tmp_path):
    submit(cluster, expected[0], tmp_path / "run", tmp_path / "log.txt", "--wait")
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.slow  # Slurm lets a job rest for two minutes before it starts it again
def test_a_preempted_slurm_job_saves_goes_back_into_the_queue_and_ends_the_same(cluster, tmp_path):
    expected, output, log = plain_run(tmp_path, epochs=8), tmp_path / "run", tmp_path / "log.txt"
    job = submit(cluster, expected[0], output, log, "--parsable")
    wait_for_a_checkpoint(output, 10, log)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], env=cluster, check=True, timeout=30)
    wait_until(lambda: "the job goes back into the queue" in log.read_text(), "the job did not stop")
    assert not (output / "model" / "manifest.json").exists()
    wait_until((output / "report.html").exists, "the job was not started again", seconds=450)
    assert "Resuming from" in log.read_text()
    assert_same_run(output, expected)
