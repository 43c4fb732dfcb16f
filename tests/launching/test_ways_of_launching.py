"""torchrun, the DeepSpeed launcher and a Ray job compute the steps of the command itself.

Oracle: losses and metrics of the same run started by the command on two processes.
"""

import math
import subprocess
import sys

import pytest
import yaml
from support.launching import BIN, ROOT, assert_same_run, launch, launch_environment, wait_until
from support.object_store import free_ports
from support.runs import read_losses

from cxml.artefacts import read_json
from cxml.config import CHOOSABLE, config_from_dict
from cxml.data import DataManifest, data_url


def test_torchrun_takes_the_same_steps(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={port}", "launch/train.py"]
    launch(launcher, tmp_path / "run", expected[0])
    assert_same_run(tmp_path / "run", expected)


def test_a_budget_with_enough_time_changes_no_step_of_torchrun(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={port}", "launch/train.py"]
    launch([*launcher, "--budget", "10h"], tmp_path / "run", expected[0])
    assert_same_run(tmp_path / "run", expected)
    assert "plan" in read_json(str(tmp_path / "run" / "budget.json"), "")


@pytest.mark.slow
def test_all_processes_of_torchrun_take_part_in_the_choice_of_the_epoch_and_in_the_final_fit(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={port}", "launch/train.py"]
    choice = ["--train.keep", "refit", "--train.validation-fraction", "0.2"]
    launch([*launcher, *choice], tmp_path / "run", expected[0])
    assert read_json(str(tmp_path / "run" / "selection.json"), "")["epoch"] == 1
    selecting, final = (len(read_losses(tmp_path / "run" / folder)) for folder in ("selection", ""))
    assert 0 < selecting < final == len(expected[1])


def test_the_deepspeed_launcher_takes_the_same_steps(expected, tmp_path):
    (port,) = free_ports(1)
    launcher = [str(BIN / "deepspeed"), "--num_gpus=2", f"--master_port={port}", "launch/train.py"]
    launch(launcher, tmp_path / "run", expected[0])
    assert_same_run(tmp_path / "run", expected)


def test_a_first_process_that_is_told_to_stop_does_not_wait_for_a_dead_one(expected, tmp_path):
    (port,) = free_ports(1)
    launched = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "launch/train.py", "--config", str(expected[0]), "--output", str(tmp_path / "run")]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        first, second = (
            subprocess.Popen(
                words,
                cwd=ROOT,
                env=launch_environment(RANK=rank, LOCAL_RANK=rank, **launched),
                stdout=file,
                stderr=file,
            )
            for rank in "01"
        )
    try:
        wait_until(lambda: "prepare  begins" in log.read_text(), "the run does not begin")
        second.kill()
        first.terminate()
        assert first.wait(timeout=25) == 75  # torchrun and Slurm kill it after 30 s
    finally:
        for each in (first, second):
            each.kill()
            each.wait()


def test_a_ray_job_takes_the_same_steps_and_its_logs_show_them(expected, job_server, tmp_path):
    submit = [str(BIN / "ray"), "job", "submit", "--", sys.executable, "-m", "cxml.train"]
    done = launch(submit, tmp_path / "run", expected[0], **job_server)
    assert_same_run(tmp_path / "run", expected)
    assert "Processes run on Ray Train" in done.stdout
    assert "epoch 1.00" in done.stdout


def test_all_processes_of_a_launcher_take_what_the_first_has_chosen(expected, tmp_path):
    values = yaml.safe_load(expected[0].read_text())
    values["train"]["batch_size"] = values["optim"]["classifier_lr"] = "auto"
    file = tmp_path / "open.yaml"
    file.write_text(yaml.safe_dump(values))
    (port,) = free_ports(1)
    launcher = [str(BIN / "torchrun"), "--nproc-per-node=2", f"--master-port={port}", "launch/train.py"]
    launch(launcher, tmp_path / "run", file)
    chosen = config_from_dict(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()))
    assert chosen.train.batch_size != CHOOSABLE["train.batch_size"]
    num_texts = DataManifest.read(data_url(chosen)).rows("train")
    assert len(read_losses(tmp_path / "run")) == math.ceil(num_texts / chosen.train.batch_size)
