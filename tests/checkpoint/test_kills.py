"""Training processes are really killed, stopped or hung: saved checkpoints are complete, and a resume loses nothing.

Oracle: a run that nothing interrupts, whose losses and weights a resumed run equals bit for bit.
"""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.checkpoints import (
    Ranks,
    begun_saves,
    checkpointed,
    model_tensors,
    off,
    read_whole,
    train_each,
    wait_for_save,
    wait_for_step,
)
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config

from cxml.checkpoint import checkpoints_url, list_checkpoints
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.parallel import run_workers

NUM_RANKS = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    config = small_config(folder, make_encoder(folder / "encoder", dropout=0.1), train={"epochs": 2, "num_workers": 2})
    prepare_with_tree(config)
    return config


@pytest.fixture(scope="module")
def through(base):
    """The run that nobody touches."""
    output = Path(base.output) / "through"
    run_workers(train_each, ([(off(checkpointed(base, output)), None, "auto")],), NUM_RANKS)
    return output


def assert_same_run(output, expected):
    assert read_losses(output) == read_losses(expected)
    found = model_tensors(output)
    for name, values in model_tensors(expected).items():
        assert torch.equal(found[name], values), name


def begin(base, output, **parts):
    config = checkpointed(base, output, **({"checkpoint": {"every_minutes": 0, "every_steps": 2}} | parts))
    return config, checkpoints_url(config)


def test_a_killed_rank_ends_the_job_and_the_next_one_goes_on_as_if_nothing_had_been(base, through, tmp_path):
    config, url = begin(base, tmp_path / "out")
    ranks = Ranks(config, NUM_RANKS, tmp_path / "first")
    assert wait_for_step(ranks, url, 6), ranks.log()
    ranks.kill([1])
    codes = ranks.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 75)
    assert all(read_whole(entry.url) == entry.step for entry in list_checkpoints(url))
    ranks = Ranks(config, NUM_RANKS, tmp_path / "second")
    assert ranks.wait() == [0, 0], ranks.log()
    assert "Resuming from" in ranks.log()
    assert_same_run(tmp_path / "out", through)


@pytest.mark.parametrize("victims", [[1], [0, 1]])
def test_ranks_killed_while_training_waits_for_a_save_leave_no_half_checkpoint(base, through, tmp_path, victims):
    config, url = begin(base, tmp_path / "out")
    ranks = Ranks(config, NUM_RANKS, tmp_path / "first", has_memory=False)
    assert wait_for_step(ranks, url, 4), ranks.log()
    wait_for_save(ranks, url)
    ranks.kill(victims)
    assert 0 not in ranks.wait()
    assert "written while training waits" in ranks.log()
    entries = list_checkpoints(url)
    assert [read_whole(entry.url) for entry in entries] == [entry.step for entry in entries]
    ranks = Ranks(config, NUM_RANKS, tmp_path / "second", has_memory=False)
    assert ranks.wait() == [0, 0], ranks.log()
    assert_same_run(tmp_path / "out", through)


def test_a_stop_signal_to_one_rank_saves_and_ends_them_all_with_a_code_of_its_own(base, through, tmp_path):
    config, url = begin(base, tmp_path / "out", checkpoint={"every_minutes": 0, "every_steps": 10**6})
    ranks = Ranks(config, NUM_RANKS, tmp_path / "first")
    records = tmp_path / "out" / "metrics.jsonl"
    while ranks.are_running() and not (records.exists() and records.read_text()):  # before a step it would just die
        time.sleep(0.05)
    ranks.processes[1].send_signal(signal.SIGUSR1)
    assert ranks.wait() == [75, 75], ranks.log()
    (entry,) = list_checkpoints(url)
    assert read_whole(entry.url) == entry.step > 0
    assert Ranks(config, NUM_RANKS, tmp_path / "second").wait() == [0, 0]
    assert_same_run(tmp_path / "out", through)


def test_a_stop_signal_to_the_command_reaches_its_processes_and_the_same_command_goes_on(base, tmp_path):
    config = dataclasses.replace(base, output=str(tmp_path / "out"))
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(config)))
    command = [sys.executable, "-m", "cxml.train", "--config", str(file)]
    records = tmp_path / "out" / "metrics.jsonl"
    with (tmp_path / "log.txt").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        while running.poll() is None and not (records.exists() and records.read_text().count("\n") >= 3):
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(300) == 75, (tmp_path / "log.txt").read_text()
    assert "Run the same command again" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "out" / "report.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stderr
    steps = [json.loads(line)["step"] for line in records.read_text().splitlines()]
    assert steps == list(range(1, 45))


def test_a_hanging_rank_ends_the_job_with_the_stacks_of_every_rank(base, tmp_path):
    config, _ = begin(base, tmp_path / "out", train={"hang_minutes": 0.3})
    ranks = Ranks(config, NUM_RANKS, tmp_path / "log", hanging=(1, 5))
    assert 0 not in ranks.wait()
    first, second = (log.read_text() for log in ranks.logs)
    for text in (first, second):
        assert re.search(r"Timeout \(0:00:18\)!", text), text
    assert "train_rank.py" in second.split("Timeout")[1]  # where it hangs
    assert "in train_step" in first.split("Timeout")[1]  # where it waits


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_gone_on_from(base, through, tmp_path):
    config, url = begin(base, tmp_path / "out")
    jobs = [(config, 11, "auto")]
    assert run_workers(train_each, (jobs,), NUM_RANKS) == [False]
    newest, before, *_ = list_checkpoints(url)
    file = next(Path(newest.url).glob("labels-00001-*"))
    file.write_bytes(file.read_bytes()[:-1])
    ranks = Ranks(config, NUM_RANKS, tmp_path / "log")
    assert ranks.wait() == [0, 0]
    assert re.search(f"Cannot resume from the checkpoint {newest.url}.*{file.name}", ranks.log())
    assert f"Resuming from {before.url}" in ranks.log()
    assert_same_run(tmp_path / "out", through)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills_at_random_moments_lose_nothing(base, tmp_path):
    """Kills of one rank and of all, about half of them while a checkpoint is being written; CXML_TEST_KILLS of them."""
    kills, draw = int(os.environ.get("CXML_TEST_KILLS", "50")), random.Random(0)
    epochs = max(2, kills)  # more steps than the kills need, however slow the machine is
    parts = {"train": {"epochs": epochs}, "checkpoint": {"every_minutes": 0, "every_steps": 3, "keep_last": 2}}
    config = checkpointed(base, tmp_path / "out", **parts)
    url, newest, in_saves, lives = checkpoints_url(config), 0, 0, 0
    for lives in range(kills):
        ranks = Ranks(config, NUM_RANKS, tmp_path / f"life-{lives}")
        assert wait_for_step(ranks, url, newest + 1 + draw.randrange(8)), ranks.log()
        if draw.random() < 0.5:
            wait_for_save(ranks, url)
        else:
            time.sleep(draw.random() / 2)
        ranks.kill([draw.randrange(NUM_RANKS)] if draw.random() < 0.5 else range(NUM_RANKS))
        assert 0 not in ranks.wait(), "the run ended before it was killed often enough"
        entries = list_checkpoints(url)
        assert [read_whole(entry.url) for entry in entries] == [entry.step for entry in entries]
        assert entries[0].step >= newest
        newest = entries[0].step
        in_saves += bool(begun_saves(url))
    ranks = Ranks(config, NUM_RANKS, tmp_path / "last")
    assert ranks.wait(1800) == [0, 0], ranks.log()
    through = off(checkpointed(base, tmp_path / "through", train={"epochs": epochs}))
    assert run_workers(train_each, ([(through, None, "auto")],), NUM_RANKS) == [True]
    assert_same_run(tmp_path / "out", tmp_path / "through")
    assert in_saves >= kills // 5
    print(f"{lives + 1} kills, {in_saves} of them during a save, at {newest} of {epochs * 22} steps")
