"""Compiled loops share the machine's cores with PyTorch."""

import numba
import numpy as np
import pytest
import torch
from numba import prange

from cxml.jit import cached_njit


@cached_njit(parallel=True)
def threads_taken(count):
    seen = np.zeros(count, np.int64)
    for i in prange(count):
        seen[i] = i
    return numba.get_num_threads(), seen.sum()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
def test_a_parallel_loop_takes_the_threads_of_pytorch_and_leaves_them_as_they_were(count):
    torch.set_num_threads(count)
    assert threads_taken(100) == (min(count, numba.config.NUMBA_NUM_THREADS), 4950)
    assert torch.get_num_threads() == count
