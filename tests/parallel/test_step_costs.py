"""The plan's bytes of traffic equal the bytes that 2 and 4 real processes count."""

import numpy as np
import pytest
import torch

from cxml.parallel import LevelTraffic, run_workers

TEXTS, PARENTS, WIDTH, LEAVES, ROWS = 16, 12, 24, 300, 5


def send_one_batch():
    from cxml.config import HeadConfig, OptimConfig
    from cxml.model import Leaves
    from cxml.parallel import Exchange, RowLayout, distributed, make_level

    with distributed(threads=1) as ranks:
        exchange = Exchange()
        layout = RowLayout.round_robin(np.arange(0, LEAVES * ROWS + 1, ROWS), ranks.rank, ranks.world_size)
        level = make_level(layout, WIDTH, exchange, HeadConfig(), OptimConfig())
        rng = np.random.default_rng(ranks.rank)
        nodes = np.stack([rng.choice(LEAVES, PARENTS, replace=False) for _ in range(TEXTS)])
        leaves = Leaves(torch.from_numpy(nodes), torch.ones(nodes.shape, dtype=torch.bool), torch.zeros(nodes.shape))
        keys = torch.arange(TEXTS) * LEAVES * ROWS + torch.from_numpy(nodes[:, 0]) * ROWS
        with torch.no_grad():
            level.loss(torch.randn(TEXTS, WIDTH), leaves, keys, 1.0)
        sent = [None] * ranks.world_size
        torch.distributed.all_gather_object(sent, exchange.sent)
        return sent


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_processes_send_the_bytes_that_the_plan_says(num_ranks):
    planned = LevelTraffic(
        ranks=num_ranks, texts=TEXTS, parents=PARENTS, width=WIDTH, feature_bytes=4, rows_of_a_leaf=ROWS
    )
    sizes = 16 * (num_ranks - 1)  # how much each will get, which is agreed on first
    assert np.mean(run_workers(send_one_batch, (), num_ranks)) - sizes == pytest.approx(planned.exact, rel=0.05)
