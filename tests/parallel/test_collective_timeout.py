"""Every process group waits as long as `train.hang_minutes` says, whichever code made the group.

Oracles: a rank that is really late, and the timeouts that PyTorch's groups report.
"""

import time

import pytest
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml.parallel import distributed, run_workers, set_collective_timeout


def wait_for_a_late_rank(hang_minutes):
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    with distributed(threads=1) as ranks:
        group = dist.new_group(timeout=timedelta(seconds=2))
        dist.barrier(group=group)
        set_collective_timeout(hang_minutes)
        time.sleep(4 * ranks.rank)
        total = torch.ones(1)
        dist.all_reduce(total, group=group)
        return float(total)


def patience_of_all_groups(config):
    import torch
    from torch.distributed import distributed_c10d

    from cxml.training import set_up

    with distributed(threads=1, hang_minutes=config.train.hang_minutes) as ranks:
        set_up(config, ranks)
        groups = list(distributed_c10d._world.pg_map)
        return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() / 60 for group in groups]


def test_a_group_that_exists_waits_as_long_as_it_is_told_to():
    assert run_workers(wait_for_a_late_rank, (1,), 2) == 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patience")
    config = small_config(folder, make_encoder(folder / "encoder"), train={"num_workers": 2, "hang_minutes": 6})
    prepare_with_tree(config)
    return config


def test_every_group_of_a_training_waits_a_minute_longer_than_the_guard(base):
    import dataclasses

    config = dataclasses.replace(base, head=dataclasses.replace(base.head, group_size=1))
    found = run_workers(patience_of_all_groups, (config,), 2)
    assert len(found) >= 2, "there are no subgroups"
    assert set(found) == {7}
