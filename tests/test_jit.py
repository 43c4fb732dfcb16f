"""Compiled loops share the machine's cores with PyTorch."""

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
