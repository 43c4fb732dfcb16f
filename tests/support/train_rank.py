"""One rank of a training as a process of its own, to be killed, stopped or hung: CONFIG [hang STEP].

Its place is in the environment (RANK, WORLD_SIZE, ...). Exits with 0 when the training is finished, 75 when a signal
stopped it.
"""

import sys
import time

from cxml.cli import load_config
from cxml.training import loop, train


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
    if rest:
        hang_at(int(rest[1]))
    sys.exit(0 if train(load_config(config), "test") else 75)
