"""One rank of a training as a process of its own, to be killed, stopped or hung: CONFIG [hang STEP] [no-memory].

Its place is in the environment (RANK, WORLD_SIZE, ...). Exits with 0 when the training is finished, 75 when a signal
stopped it.
"""

import functools
import sys
import time

from cxml.checkpoint import Saver
from cxml.cli import load_config
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


if __name__ == "__main__":
    config, *rest = sys.argv[1:]
    if "hang" in rest:
        hang_at(int(rest[rest.index("hang") + 1]))
    if "no-memory" in rest:
        checkpoints.Saver = functools.partial(Saver, free_memory=lambda: 0)
    sys.exit(0 if train(load_config(config), FINGERPRINTS) else 75)
