"""The thread pool of the tree builder: order, concurrency, errors and the number of threads.

Oracles: the results computed serially, and the CPUs that the process may use.
"""

import os
import sys
import threading

import pytest

from cxml.tree.thread_pool import ThreadPool, default_threads


def test_results_come_in_order_and_parts_cover_the_whole():
    with ThreadPool(3) as pool:
        assert pool.run(pow, [(base, 2) for base in range(20)]) == [base**2 for base in range(20)]
        assert pool.parts(10) == [(0, 3), (3, 6), (6, 10)]


def test_calls_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=30)
    with ThreadPool(2) as pool:
        assert sorted(pool.run(meeting.wait, [(), ()])) == [0, 1]


def test_every_call_that_a_call_returns_is_made():
    done = []

    def halve(number):
        done.append(number)
        return [(number // 2,), (number - number // 2,)] if number > 1 else []

    with ThreadPool(2) as pool:
        pool.run_growing(halve, [(5,), (1,)])
    assert sorted(done) == [1, 1, 1, 1, 1, 1, 2, 2, 3, 5]


def test_an_error_in_a_call_that_another_call_returned_is_raised():
    with ThreadPool(2) as pool, pytest.raises(ZeroDivisionError):
        pool.run_growing(lambda number: [(number - 1,)] if 1 / number else [], [(3,)])


def test_an_error_in_a_call_is_raised():
    with ThreadPool(2) as pool, pytest.raises(ZeroDivisionError):
        pool.run(divmod, [(1, 1), (1, 0)])


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), ("1", 1)])
def test_openmp_setting_decides_the_number_of_threads(monkeypatch, setting, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert default_threads() == expected


@pytest.mark.parametrize("setting", ["", "0", "many", "-1"])
def test_without_a_usable_setting_all_cores_are_taken(monkeypatch, setting):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert default_threads() == (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
