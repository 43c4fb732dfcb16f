"""Trainings stopped from outside: Ctrl-C, signals at the end of an epoch, a killed command, a refused resume.

Oracles: a run without a stop, exit codes, and the process table.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from support.checkpoints import checkpointed, model_tensors, train_each
from support.launching import launch_environment, wait_until
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config

from cxml.checkpoint import ShardReader, list_checkpoints
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.parallel import run_workers

STEPS_PER_EPOCH = 22


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopping")
    config = small_config(folder, make_encoder(folder / "encoder", dropout=0.1), train={"epochs": 2, "num_workers": 2})
    prepare_with_tree(config)
    return config


def records(output, kind):
    lines = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_signal_at_an_epochs_last_step_saves_before_the_evaluation_which_the_next_start_makes_up_for(base, tmp_path):
    parts = {"train": {"evaluate_every": 1}, "checkpoint": {"every_minutes": 0, "every_steps": 1000}}
    through, *stopped = (checkpointed(base, tmp_path / name, **parts) for name in ("through", "first", "last"))
    jobs = [(through, None, "auto")]
    for epoch, config in enumerate(stopped, start=1):
        jobs += [(config, epoch * STEPS_PER_EPOCH, "auto"), (config, None, "auto")]
    assert run_workers(train_each, (jobs,), 1) == [True, False, True, False, True]
    weights = model_tensors(Path(through.output))
    for epoch, config in enumerate(stopped, start=1):
        (entry,) = list_checkpoints(f"{config.output}/checkpoints")
        assert entry.step == epoch * STEPS_PER_EPOCH
        assert ShardReader(entry.url).manifest.run.before_epoch_end
        assert records(config.output, "evaluate") == records(through.output, "evaluate")
        assert read_losses(Path(config.output)) == read_losses(Path(through.output))
        found = model_tensors(Path(config.output))
        assert all(torch.equal(found[name], values) for name, values in weights.items())


class Command:
    """`python -m cxml.train` on a config, leading a process group as a command of a shell does."""

    def __init__(self, config, folder, *words, module="cxml.train"):
        folder.mkdir(exist_ok=True)
        file = folder / "config.yaml"
        file.write_text(dump_config(config_to_dict(config)))
        self.output, self.log = Path(config.output), folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--config", str(file), *words],
                stdout=log, stderr=log, env=launch_environment(), start_new_session=True,
            )  # fmt: skip

    def wait_for(self, is_there, what):
        wait_until(lambda: is_there() or self.process.poll() is not None, what)
        assert self.process.poll() is None, self.log.read_text()[-3000:]

    def wait_for_steps(self, count):
        file = self.output / "metrics.jsonl"
        self.wait_for(lambda: file.exists() and file.read_text().count("\n") >= count, "no steps")

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self):
        code = self.process.wait(300)
        return code, self.log.read_text()


@pytest.fixture
def command(tmp_path):
    started = []

    def start(config, *words, **options):
        started.append(Command(config, tmp_path, *words, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def for_commands(base, output, **parts):
    """A config that uses the data of `base`, and makes a tree of its own."""
    config = checkpointed(base, output, **parts)
    return dataclasses.replace(config, tree=dataclasses.replace(config.tree, directory=""))


def press_ctrl_c(command):
    """As a terminal does it: every process of the foreground group gets SIGINT."""
    os.killpg(command.process.pid, signal.SIGINT)


def test_ctrl_c_saves_says_in_one_line_how_to_go_on_and_the_same_command_does(base, tmp_path, command):
    config = for_commands(base, tmp_path / "out", checkpoint={"every_steps": 1000})
    first = command(config)
    first.wait_for_steps(3)
    press_ctrl_c(first)
    code, log = first.wait()
    assert code == 130, log
    assert log.splitlines()[-1] == "Interrupted. Run the same command again to resume."
    assert "Traceback" not in log
    (entry,) = list_checkpoints(f"{config.output}/checkpoints")
    assert entry.step >= 3
    code, log = command(config).wait()
    assert code == 0, log
    assert f"Resuming from {entry.url}" in log
    assert [record["step"] for record in records(config.output, "train")] == list(range(1, 45))


def test_ctrl_c_before_the_first_step_ends_without_a_traceback(base, tmp_path, command):
    one = command(for_commands(base, tmp_path / "out"))
    one.wait_for(lambda: len(one.family()) >= 3, "no workers")
    press_ctrl_c(one)
    code, log = one.wait()
    assert code == 130, log
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("Interrupted.")


def test_a_killed_command_leaves_no_process_and_what_it_saved(base, tmp_path, command):
    config = for_commands(base, tmp_path / "out", checkpoint={"every_steps": 2})
    one = command(config)
    one.wait_for(lambda: list_checkpoints(f"{config.output}/checkpoints"), "no checkpoint")
    family = one.family()
    one.process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert not (one.output / "model" / "manifest.json").exists()


def test_a_refused_resume_says_so_without_a_traceback(base, tmp_path, command):
    config = checkpointed(base, tmp_path / "out")
    assert run_workers(train_each, ([(config, 3, "auto")],), 2) == [False]
    (entry,) = list_checkpoints(f"{config.output}/checkpoints")
    other = for_commands(base, tmp_path / "other", train={"batch_size": 16})
    code, log = command(other, "--resume", entry.url).wait()
    assert code == 2, log
    assert "Traceback" not in log
    assert "torch" not in log
    assert log.splitlines()[-1].startswith("WorkerError: Process")
