import pickle

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
