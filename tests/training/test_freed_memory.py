"""Memory that a process has freed returns to the system.

Oracle: the resident memory that the kernel reports.
"""

import gc
import sys

import psutil
import pytest

from cxml.operating_system import return_freed_memory

PIECE, PIECES = 64 << 10, 3200  # below what the C library maps apart


def resident():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_is_free_between_pieces_in_use_goes_back_to_the_system():
    pieces = [bytearray(PIECE) for _ in range(PIECES)]
    last = pieces[-1]  # what lies above the freed pieces keeps the heap from shrinking
    del pieces
    gc.collect()
    before = resident()
    return_freed_memory()
    assert before - resident() > PIECE * PIECES / 2
    assert not any(last)
