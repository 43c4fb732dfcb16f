"""The hang guard ends a process whose step hangs, and no process that may take its time.

Oracle: real processes, their exit codes and stack traces.
"""

import subprocess
import sys

import pytest

SCRIPT = """
import logging, time
logging.basicConfig()
from cxml.training import HangGuard
guard = HangGuard(2 / 60)
{}
print("survived")
"""


def run(body):
    return subprocess.run([sys.executable, "-c", SCRIPT.format(body)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "body",
    [
        "guard.on_epoch_begin(); time.sleep(60)",
        "guard.on_step_end(None); time.sleep(60)",
        "guard.on_step_end(None)\nwith guard.paused():\n    pass\ntime.sleep(60)",
    ],
    ids=["the first step of an epoch", "a later step", "a step after a save"],
)
def test_a_step_that_hangs_ends_the_process_with_its_stacks(body):
    done = run(body)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "most recent call first" in done.stderr


def test_clearing_up_after_an_error_may_not_hang_either_and_the_error_is_told_first():
    done = run("try:\n    1 / 0\nfinally:\n    guard.on_end()\n    time.sleep(60)")
    assert done.returncode == 1
    assert "Training ends: division by zero" in done.stderr
    assert "most recent call first" in done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "guard.on_epoch_begin(); guard.on_epoch_end(1); time.sleep(4)",
        "guard.on_epoch_begin(); guard.on_end(); time.sleep(4)",
        "guard.on_step_end(None)\nwith guard.paused():\n    time.sleep(4)\nguard.close()",
        "guard.on_epoch_begin(); guard.on_epoch_end(1)\nwith guard.paused():\n    pass\ntime.sleep(4)",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    guard.on_end(); guard.close()\ntime.sleep(4)",
    ],
    ids=["between epochs", "after the training", "in a save", "after a save between epochs", "after all is cleared up"],
)
def test_nothing_is_ended_where_time_may_be_taken(body):
    done = run(body)
    assert done.returncode == 0
    assert "survived" in done.stdout
