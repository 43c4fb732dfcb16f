"""Compiled loops use PyTorch's number of threads, and stale compiled code is not run.

Oracles: numba's and PyTorch's own thread counts, and a called module that changes.
"""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from numba import prange

from cxml.jit import cached_njit


@cached_njit(parallel=True)
def sum_below(count):
    seen = np.zeros(count, np.int64)
    for i in prange(count):
        seen[i] = i
    return seen.sum()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
def test_a_parallel_loop_takes_the_threads_of_pytorch_and_leaves_them_as_they_were(count):
    torch.set_num_threads(count)
    assert sum_below(100) == 4950
    # Asked here and not in the loop: Ray replaces `print`, which numba's compiled form of this function calls.
    assert numba.get_num_threads() == min(count, numba.config.NUMBA_NUM_THREADS)
    assert torch.get_num_threads() == count


CALLER = """
from callee import number
from cxml.jit import cached_njit

@cached_njit()
def twice():
    return 2 * number()
"""
CALLEE = """
from cxml.jit import cached_njit

@cached_njit()
def number():
    return {}
"""


def test_code_on_the_disk_is_not_run_once_a_module_that_it_calls_has_changed(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    for number in (1, 2):
        (tmp_path / "callee.py").write_text(CALLEE.format(number))
        # -B: both versions have one size and perhaps one second, which is all that Python's own bytecode files compare.
        command = [sys.executable, "-B", "-c", "from caller import twice; print(twice())"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout == f"{2 * number}\n"
    assert list(tmp_path.glob("__pycache__/caller.twice*.nbi")), "it was kept on the disk"
