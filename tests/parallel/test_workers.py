"""Worker processes: their results, which failure is reported, how signals reach them, and the end of orphans.

Oracle: real processes, killed and signalled, and the process table.
"""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support import warm_workers
from support.launching import ROOT, launch_environment, wait_until

from cxml.errors import WorkerError
from cxml.parallel import distributed, run_workers, workers

SCRIPT = """
import os, pathlib, signal, sys, time
from cxml.parallel import run_workers
from test_workers import {work}

if __name__ == "__main__":
    try:
        print("returned", run_workers({work}, (sys.argv[1],), 2), flush=True)
    except BaseException as error:
        print("raised", type(error).__name__, flush=True)
"""


@pytest.fixture(autouse=True)
def as_users_have_them(monkeypatch):
    monkeypatch.setattr(workers, "_start", warm_workers.new_interpreter)


def fail_on_one_rank(how):
    import torch
    import torch.distributed as dist

    with distributed(threads=1) as ranks:
        dist.barrier()
        if ranks.rank == 1:
            fail(how)
        dist.all_reduce(torch.zeros(1))  # rank 0 waits for the other, and fails when that is gone


def fail(how):
    if how == "by mistake":
        raise ZeroDivisionError
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(folder):
    note_pid(folder)
    time.sleep(1000)


def sleep_through_sigterm(folder):
    signal.signal(signal.SIGTERM, lambda *_: None)
    sleep(folder)


def end_on_sigterm(folder):
    """As a training does: note the signal, end in good order."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    note_pid(folder)
    while not told:
        time.sleep(0.05)
    return "in good order"


def note_pid(folder):
    with open(f"{folder}/{os.environ['RANK']}.pid", "w") as file:  # noqa: PTH123 - as short as it can be
        file.write(str(os.getpid()))


def two_groups(folder):
    import torch
    import torch.distributed as dist

    sums = []
    for _ in range(2):
        with distributed(threads=1):
            total = torch.ones(1)
            dist.all_reduce(total)
            sums.append(int(total))
    mode = os.stat(os.environ["CXML_RENDEZVOUS"]).st_mode & 0o777  # noqa: PTH116
    return sums, mode, "x" * (1 << 24)


@pytest.mark.parametrize(
    ("how", "account"),
    [
        ("by mistake", r"Process 1 of 2 failed. ZeroDivisionError: \nTraceback"),
        ("killed", r"Process 1 of 2 failed. SIGKILL ended it.$"),
    ],
)
def test_the_process_that_failed_is_named_and_not_those_that_failed_for_want_of_it(how, account):
    with pytest.raises(WorkerError, match=account):
        run_workers(fail_on_one_rank, (how,), 2)


def test_groups_follow_each_other_meet_where_nobody_else_can_read_and_results_may_be_large(tmp_path):
    sums, mode, large = run_workers(two_groups, (str(tmp_path),), 2)
    assert sums == [2, 2]
    assert mode == 0o700
    assert len(large) == 1 << 24


@pytest.fixture
def start(tmp_path):
    """Start a script whose two workers do some work; it leads a process group of its own, as a shell's command does."""
    started = []

    def begin(work):
        file = tmp_path / "script.py"
        file.write_text(SCRIPT.format(work=work.__name__))
        environment = launch_environment()
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "parallel", ROOT / "tests")))
        process = subprocess.Popen(
            [sys.executable, str(file), str(tmp_path)], env=environment, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        with_all = [psutil.Process(process.pid), *children(process)] if process.poll() is None else []
        for one in with_all:
            one.kill()
        process.stdout.close()
        process.wait()


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def are_at_work(process, folder):
    wait_until(lambda: len(list(folder.glob("*.pid"))) == 2 or process.poll() is not None, "the workers do not begin")
    assert process.poll() is None, process.stdout.read()


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=180)
    assert not alive


def test_workers_end_when_their_parent_is_killed(start, tmp_path):
    process = start(sleep_through_sigterm)
    are_at_work(process, tmp_path)
    family = children(process)
    process.kill()
    assert_gone(family)


def test_workers_that_are_still_loading_end_when_their_parent_is_killed(start, tmp_path):
    process = start(sleep_through_sigterm)
    wait_until(lambda: len(children(process)) >= 3, "no workers")  # two, and multiprocessing's tracker
    family = children(process)
    process.kill()
    assert_gone(family)
    assert not list(tmp_path.glob("*.pid")), "the test came too late"


@pytest.mark.parametrize("whole_group", [False, True], ids=["the command alone", "the terminal's whole group"])
def test_ctrl_c_lets_the_workers_end_in_good_order_first(start, tmp_path, whole_group):
    process = start(end_on_sigterm)
    are_at_work(process, tmp_path)
    for _ in range(2 if whole_group else 1):  # a wrapper may hand on what the terminal has sent already
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert output.split() == ["raised", "KeyboardInterrupt"]


def test_a_second_ctrl_c_ends_workers_that_do_not(start, tmp_path):
    process = start(sleep_through_sigterm)
    are_at_work(process, tmp_path)
    family = children(process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)  # less than the workers would have to save
    assert output.split() == ["raised", "KeyboardInterrupt"]
    assert_gone(family)


def test_sigterm_is_passed_on(start, tmp_path):
    process = start(sleep)
    are_at_work(process, tmp_path)
    process.terminate()
    output, _ = process.communicate(timeout=100)
    assert output.split() == ["raised", "InterruptionError"]
