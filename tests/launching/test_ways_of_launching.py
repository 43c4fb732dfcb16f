"""The same run started in four ways: real launchers, a real Ray cluster with its job server."""

import sys

from support.launching import BIN, assert_same_run, launch
from support.object_store import free_ports


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


def test_a_ray_job_takes_the_same_steps_and_its_logs_show_them(expected, job_server, tmp_path):
    submit = [str(BIN / "ray"), "job", "submit", "--", sys.executable, "-m", "cxml.train"]
    done = launch(submit, tmp_path / "run", expected[0], **job_server)
    assert_same_run(tmp_path / "run", expected)
    assert "Processes run on Ray Train" in done.stdout
    assert "epoch 1.00" in done.stdout
