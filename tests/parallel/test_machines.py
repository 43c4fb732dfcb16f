"""The number of ranks per machine comes from the launcher, and each machine holds all label rows once.

Four processes take the environment of two machines. Oracle: hand-computed counts.
"""

import os

import pytest

from cxml.config import Config, DataConfig, HeadConfig, SourceConfig
from cxml.errors import WorkerError
from cxml.parallel import Exchange, distributed, ranks_per_machine, run_workers, sharded_levels
from cxml.tree import LabelTree


def count(machine_sizes):
    with distributed(threads=1) as ranks:
        os.environ["LOCAL_WORLD_SIZE"] = str(machine_sizes[ranks.rank])
        return ranks_per_machine()


def rows_held(group_size):
    import numpy as np

    with distributed(threads=1):
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        tree = LabelTree(np.arange(64, dtype=np.int32), (np.arange(0, 65, 8),))
        config = Config(
            output="unused", data=DataConfig(source=SourceConfig(path="unused")), head=HeadConfig(group_size=group_size)
        )
        return sharded_levels(tree, Exchange(), config)((4, 4))[1].layout.num_rows


def test_machines_of_one_size_are_counted():
    assert run_workers(count, ((2, 2, 2, 2),), 4) == 2


def test_machines_of_different_sizes_are_refused_with_their_sizes():
    with pytest.raises(WorkerError, match="machines run 1 and 3 processes"):
        run_workers(count, ((3, 3, 3, 1),), 4)


def test_each_machine_holds_all_rows_once():
    assert run_workers(rows_held, ("node",), 4) == 32
    assert run_workers(rows_held, (0,), 4) == 16
