"""One rank of a training as its own process, which tests kill, stop or hang."""

import functools
import sys
import time

from cxml.checkpoint import Saver
from cxml.training import checkpoints, loop, train

FINGERPRINTS = {"fp32": "test", "bf16": "test"}


def hang_at(step_to_hang_at):
    step, done = loop.train_step, 0

    def stepping(*arguments):
        nonlocal done
        done += 1
        if done == step_to_hang_at:
            time.sleep(10_000)
        return step(*arguments)

    loop.train_step = stepping


def train_rank(config, step_to_hang_at, *, has_memory):
    """Train as the rank that the environment names (RANK, WORLD_SIZE, ...).

    The process exits with 0 when the training is finished, and with 75 when a signal stopped it. At the step
    `step_to_hang_at` it hangs; 0: never.
    """
    if step_to_hang_at:
        hang_at(step_to_hang_at)
    if not has_memory:
        checkpoints.Saver = functools.partial(Saver, free_memory=lambda: 0)
    sys.exit(0 if train(config, FINGERPRINTS) else 75)
