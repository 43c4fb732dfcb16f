"""Real trainings that are stopped and resumed, several of them in one process group."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import time
from pathlib import Path

import torch

from cxml.checkpoint import ShardReader, list_checkpoints
from cxml.config import CheckpointConfig, Config
from support.object_store import free_ports
from support.runs import FINGERPRINTS
from support.train_rank import train_rank
from support.warm_workers import LoggedProcess


def checkpointed(config: Config, output: Path, *, url: str = "", **parts: object) -> Config:
    """`config` with its data and tree, another output folder, and checkpoints every 5 steps."""
    sections = {"checkpoint": {"every_minutes": 0.0, "every_steps": 5, "keep_last": 9, "url": url}, **parts}
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)  # type: ignore[arg-type]
        for name, values in sections.items()
    }
    data = dataclasses.replace(config.data, directory=f"{config.output}/data")
    tree = dataclasses.replace(config.tree, directory=f"{config.output}/tree")
    return dataclasses.replace(config, output=str(output), data=data, tree=tree, **changed)


def train_each(jobs: list[tuple[Config, int | None, str]]) -> list[bool]:
    """Train the configs in order. A job: a config, the step after which a signal stops it, and what it resumes from."""
    from cxml.parallel import distributed
    from cxml.training import loop
    from cxml.training.train_job import train_in_group

    step = loop.train_step
    finished = []
    with distributed(threads=1) as ranks:
        for config, stop_after, choice in jobs:
            loop.train_step = _signalling(step, stop_after, ranks.rank)
            finished.append(train_in_group(config, FINGERPRINTS, ranks, choice))
    return finished


def _signalling(step, stop_after, rank):
    """A training step that sends SIGTERM to rank 0 after `stop_after` steps."""
    done = 0

    def stepping(*arguments):
        nonlocal done
        result = step(*arguments)
        done += 1
        if done == stop_after and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    return stepping


def model_tensors(output: Path) -> dict[str, torch.Tensor]:
    """All weights of a saved model; label rows in tree order."""
    import safetensors.torch

    found = safetensors.torch.load_file(output / "model" / "weights.safetensors")
    parts = [safetensors.torch.load_file(file) for file in sorted((output / "model").glob("labels-*"))]
    order = torch.argsort(torch.cat([part["positions"] for part in parts]))
    return found | {f"label {name}": torch.cat([part[name] for part in parts])[order] for name in ("weight", "bias")}


def off(config: Config) -> Config:
    """`config` without checkpoints."""
    return dataclasses.replace(config, checkpoint=CheckpointConfig(every_minutes=0, every_steps=0))


class Ranks:
    """The ranks of a training as processes, each with its own log."""

    def __init__(self, config: Config, num_ranks: int, folder: Path, *, environment: dict[str, str] | None = None,
                 hanging: tuple[int, int] | None = None, has_memory: bool = True) -> None:  # fmt: skip
        """Start the ranks. `hanging` is a rank and the step at which it hangs, `has_memory` whether a save may copy."""
        folder.mkdir(parents=True, exist_ok=True)
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": str(num_ranks)}
        self.logs = [folder / f"rank-{rank}.log" for rank in range(num_ranks)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_ranks)}
            whole = {**os.environ, **place, **own, **(environment or {})}
            step = hanging[1] if hanging and hanging[0] == rank else 0
            rank_of = functools.partial(train_rank, config, step, has_memory=has_memory)
            self.processes.append(LoggedProcess(log, whole, rank_of))

    def wait(self, seconds: float = 300) -> list[int]:
        """The exit codes. A rank that runs longer is killed and fails the test."""
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            self.kill(range(len(self.processes)))

    def kill(self, ranks) -> None:
        """Send SIGKILL to these ranks and wait for their end."""
        for rank in ranks:
            self.processes[rank].kill()
        for rank in ranks:
            self.processes[rank].wait()

    def are_running(self) -> bool:
        """Whether all ranks still run."""
        return all(process.poll() is None for process in self.processes)

    def log(self) -> str:
        """The logs of all ranks."""
        return "\n".join(log.read_text() for log in self.logs)


def wait_for_step(ranks: Ranks, url: str, step: int) -> bool:
    """Wait for a checkpoint of `step` or a later step. Returns False if a rank ended before."""
    while ranks.are_running():
        if any(entry.step >= step for entry in list_checkpoints(url)):
            return True
        time.sleep(0.02)
    return False


def begun_saves(url: str) -> list[Path]:
    """The folders of unfinished saves: they hold a file and no commit."""
    found = []
    for folder in Path(url).glob("step-*"):
        with contextlib.suppress(FileNotFoundError):  # an old checkpoint is being deleted
            names = os.listdir(folder)  # noqa: PTH208  one atomic listing
            if names and "commit.json" not in names and "manifest.json" not in names:
                found.append(folder)
    return found


def wait_for_save(ranks: Ranks, url: str) -> None:
    """Wait until a save has started, or a rank has ended."""
    before = set(begun_saves(url))
    while ranks.are_running() and not set(begun_saves(url)) - before:
        time.sleep(0.001)


def read_whole(url: str) -> int:
    """Read every tensor of a checkpoint. Returns its step."""
    reader = ShardReader(url)
    for name in reader.manifest.tensors:
        reader.tensor(name)
    return reader.manifest.run.step


def train_each_plainly(jobs: list[tuple[Config, int | None, str]]) -> list[bool]:
    """`train_each` in a process that can import neither DeepSpeed nor Ray."""
    sys.modules.update(dict.fromkeys(("deepspeed", "ray")))  # type: ignore[arg-type]
    return train_each(jobs)
