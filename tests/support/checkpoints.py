"""Real trainings that are stopped and gone on with, several in one process group."""

import dataclasses
import os
import signal
from pathlib import Path

import torch

from cxml.config import CheckpointConfig, Config


def checkpointed(config: Config, output: Path, *, url: str = "", **parts: object) -> Config:
    """`config` with the data and tree of its output, another output, and checkpoints every 5 steps."""
    sections = {"checkpoint": {"every_minutes": 0.0, "every_steps": 5, "keep_last": 9, "url": url}, **parts}
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)  # type: ignore[arg-type]
        for name, values in sections.items()
    }
    data = dataclasses.replace(config.data, directory=f"{config.output}/data")
    tree = dataclasses.replace(config.tree, directory=f"{config.output}/tree")
    return dataclasses.replace(config, output=str(output), data=data, tree=tree, **changed)


def train_each(jobs: list[tuple[Config, int | None, str]]) -> list[bool]:
    """Train each config in turn; a number is the step after which a signal stops it, the text what to go on from."""
    from cxml.parallel import distributed
    from cxml.training import loop
    from cxml.training.jobs import train_in_group

    step = loop.train_step
    finished = []
    with distributed(threads=1) as ranks:
        for config, stop_after, choice in jobs:
            loop.train_step = _signalling(step, stop_after, ranks.rank)
            finished.append(train_in_group(config, "test", ranks, choice))
    return finished


def _signalling(step, stop_after, rank):
    """A training step that sends this process SIGTERM when its time has come, on one rank only."""
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
