"""Measures one rank's own work in a step of the label rows by the number of ranks; it should not grow with that number.

    python benchmarks/many_ranks.py [--quick] [--ranks 8 64 512]

One process acts as rank 0 of a process group whose collectives return at once. In place of the other ranks' data they
return data of this rank. The seconds are therefore those of rank 0's own work, without a network. Each rank has 64
texts that want 400 of 262,144 leaves each. A leaf has one label, so that the rows cost little and the other work is
visible. The numbers of ranks alternate, each in a process of its own, and the table shows medians. Bytes are what the
rank passed to collectives, and what PyTorch and NumPy allocated in a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line

from cxml.config import HeadConfig, OptimConfig
from cxml.model import Leaves
from cxml.parallel import Exchange, RowLayout, ShardedLevel, make_level

TEXTS, LEAVES, WANTED, WIDTH, TRUE = 64, 262_144, 400, 64, 5
GOAL = 1.3  # a step's time at the most ranks over that at the fewest


class Echo(Exchange):
    """An exchange that returns this rank's data in place of other ranks' data, which have the same size on average."""

    def all_to_all(self, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        """See `Exchange.all_to_all`."""
        super().all_to_all(rows, sent, received)
        return rows

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        super()._gather(tensor)
        return [tensor] * self.size


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: under 50 s on two cores")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512], help="numbers of ranks, in rising order")
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps, turns = (5, 1) if options.quick else (15, 3)
    if options.play:
        print(json.dumps(play(options.play, steps)))
        return
    found: dict[int, list[dict[str, float]]] = {count: [] for count in options.ranks}
    for _ in range(turns):
        for count, figures in found.items():
            figures.append(apart(count, quick=options.quick))
    report(found)


def apart(num_ranks: int, *, quick: bool) -> dict[str, float]:
    """Call `play` in a new process."""
    command = [sys.executable, __file__, "--play", str(num_ranks), *(["--quick"] if quick else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def play(num_ranks: int, steps: int) -> dict[str, float]:
    """Act as rank 0 of `num_ranks`; return milliseconds of a step, MiB sent, and MiB allocated by PyTorch and NumPy."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415 - imports much of torch's tests

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    torch.set_num_threads(1)
    # The fake group copies what is sent, piece by piece; this is work of the network.
    dist.all_to_all_single = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    layout = RowLayout.round_robin(np.arange(LEAVES + 1, dtype=np.int64), 0, num_ranks)
    exchange = Echo()
    head = make_level(layout, WIDTH, exchange, HeadConfig(), OptimConfig())
    seconds = [_step(head, seed) for seed in range(steps + 2)][2:]
    sent = exchange.sent
    tracemalloc.start()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _step(head, 0)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events() or ())
    allocated += tracemalloc.get_traced_memory()[1]
    return {
        "milliseconds": 1e3 * statistics.median(seconds),
        "sent": (exchange.sent - sent) / 2**20,
        "memory": allocated / 2**20,
    }


def _step(head: ShardedLevel, seed: int) -> float:
    """Time a training step on texts drawn with this seed; return seconds."""
    rng = np.random.default_rng(seed)
    nodes = np.stack([rng.choice(LEAVES, WANTED, replace=False) for _ in range(TEXTS)])
    keys = np.sort((np.arange(TEXTS)[:, None] * LEAVES + nodes[:, :TRUE]).ravel())
    leaves = Leaves(torch.from_numpy(nodes), torch.ones(nodes.shape, dtype=torch.bool), torch.zeros(nodes.shape))
    features = torch.from_numpy(rng.normal(size=(TEXTS, WIDTH)).astype(np.float32)).requires_grad_()
    began = time.perf_counter()
    head.schedule.begin_step(1e-3, 0.9)
    (head.loss(features, leaves, torch.from_numpy(keys), 1 / TEXTS) / TEXTS).backward()
    head.finish_step(torch.tensor(True))
    return time.perf_counter() - began


def report(found: dict[int, list[dict[str, float]]]) -> None:
    """Print the table and the closing line."""
    table = Table(title=f"{TEXTS} texts a rank, {WANTED} leaves a text, {LEAVES:,} leaves", title_justify="left")
    for column in ("ranks", "ms a step", "MiB sent", "MiB allocated"):
        table.add_column(column, justify="right")
    medians = {
        count: {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        for count, figures in found.items()
    }
    for count, median in medians.items():
        table.add_row(str(count), *(f"{median[name]:.1f}" for name in ("milliseconds", "sent", "memory")))
    Console().print(table)
    fewest, *_, most = (median["milliseconds"] for median in medians.values())
    print_closing_line(
        "a rank's own step at the most ranks, of that at the fewest", most / fewest, "times", GOAL, goal=1.0,
        lower_is_better=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
