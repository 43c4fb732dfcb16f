"""Connections to Ray: cxml's errors inside Ray's, the reachable cluster, and the end of a temporary one.

Oracles: Ray's own exception classes, and the process table.
"""

import pickle
import subprocess
import sys

import psutil
import pytest
from support.launching import launch_environment
from support.ray import one_at_a_time

from cxml import ray_cluster
from cxml.errors import DataError


def test_cxmls_own_error_is_found_inside_rays():
    from ray.exceptions import RayTaskError

    mine = DataError("file", "is broken", "Mend it.")
    wrapped = RayTaskError("work", "traceback", mine)
    again = RayTaskError("outer work", "traceback", wrapped.as_instanceof_cause())
    assert ray_cluster.own_error(again.as_instanceof_cause()) is mine
    assert ray_cluster.own_error(pickle.loads(pickle.dumps(mine))).args == mine.args
    other = RayTaskError("work", "traceback", ValueError("other"))
    assert ray_cluster.own_error(other) is other


def test_a_cluster_is_reachable_where_ray_address_names_one(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray_cluster.is_reachable()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_cluster.is_reachable()


HOLD = """
import time
from cxml.ray_cluster import joined_cluster
with joined_cluster():
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.mark.slow  # Ray's agents take a minute to notice
def test_a_cluster_ends_with_the_killed_process_that_started_it():
    with one_at_a_time():
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=launch_environment())
        assert process.stdout.readline() == b"up\n"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 3
        process.kill()
        process.wait()
        process.stdout.close()
        _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive
