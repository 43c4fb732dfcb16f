"""Compares two ways to score shortlists that share labels: row by row, and by one product over the batch's union.

    python benchmarks/shortlist_kernels.py [--quick] [--labels 100000] [--texts 32 128 512] [--power 0 1 2]

Both ways compute the loss, the gradient of the features and the gradients of the rows for a batch of texts that want
1,000 labels each, in leaves of eight. Leaves are drawn uniformly or by a power law (leaf c with weight (c +
50)^-power, so that texts share many). The first way is `cxml.optim.row_kernels.train_groups`, which visits each row
once for all of its pairs. The second gathers the union's rows in chunks, multiplies all texts by all of them with
torch, and masks the pairs that no text asked for. Nothing is updated. The table shows medians of CPU time over
alternating runs on one thread. The last line is JSON: the first way against the second where labels are drawn most
uniformly, with the fewest texts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.label_heads import LABELS_PER_LEAF, WIDTH

from cxml.config import HeadConfig, OptimConfig
from cxml.model import Leaves
from cxml.optim import CpuShortlistKernels
from cxml.parallel import Exchange, RowLayout, ShardedLevel, make_level
from cxml.parallel.routing import dispatch_to_owners
from cxml.parallel.row_layout import Shard

WANTED_LEAVES = 125
ROUNDS = 7
CHUNK_LEAVES = 256


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 and 128 texts, power 0: under 50 s on two cores")
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--texts", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--power", type=float, nargs="+", default=[0, 1, 2], help="exponents; 0 is uniform")
    options = parser.parse_args()
    if options.quick:
        options.texts, options.power = options.texts[:2], options.power[:1]
    torch.set_num_threads(1)
    table = Table(title=f"{options.labels:,} labels, ms of CPU per batch", title_justify="left")
    for heading in ("power", "texts", "density", "row by row", "union", "union / row by row"):
        table.add_column(heading, justify="right")
    head = make_head(options.labels)
    found = {
        (power, num_texts): measure(head, power, num_texts) for power in options.power for num_texts in options.texts
    }
    for (power, num_texts), (density, rows, union) in found.items():
        times = (f"{rows:.0f}", f"{union:.0f}", f"{union / rows:.2f}")
        table.add_row(f"{power:g}", str(num_texts), f"{density:.3f}", *times)
    Console().print(table)
    _, rows, union = found[min(found)]
    print_closing_line("shortlist_kernels, row by row", rows, "ms of CPU", union, goal=1, lower_is_better=True)


def make_head(num_labels: int) -> ShardedLevel:
    """Make a level with random rows."""
    offsets = np.arange(0, num_labels + 1, LABELS_PER_LEAF).astype(np.int64)
    head = make_level(
        RowLayout.round_robin(offsets, 0, 1), WIDTH, Exchange(), HeadConfig(optimizer="sgd"), OptimConfig()
    )
    head.rows.weight.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=head.rows.weight.shape) / 20))
    return head


def measure(head: ShardedLevel, power: float, num_texts: int) -> tuple[float, float, float]:
    """Density of the union, milliseconds row by row, milliseconds over the union."""
    rng = np.random.default_rng(1)
    num_leaves = len(head.layout.leaf_offsets) - 1
    weights = (np.arange(num_leaves) + 50.0) ** -power
    weights /= weights.sum()
    nodes = np.stack([rng.choice(num_leaves, WANTED_LEAVES, replace=False, p=weights) for _ in range(num_texts)])
    leaves = Leaves(torch.from_numpy(nodes), torch.ones(nodes.shape, dtype=torch.bool), torch.zeros(nodes.shape))
    keys = torch.arange(num_texts) * head.layout.num_labels + torch.from_numpy(nodes[:, 0]) * LABELS_PER_LEAF
    features = torch.from_numpy(rng.normal(size=(num_texts, WIDTH)).astype(np.float32) / 20)
    union = np.unique(nodes)
    ways = {
        "rows": lambda: sums_of(head, features, leaves, keys),
        "union": lambda: train_union(head, features, nodes, union, keys.sort().values),
    }
    np.testing.assert_allclose(ways["rows"]().numpy(), ways["union"]().numpy(), rtol=1e-2, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    rows, both = (statistics.median(seconds[name]) * 1000 for name in ways)
    density = nodes.size / (len(union) * num_texts)
    return density, rows, both


def sums_of(head: ShardedLevel, features: torch.Tensor, leaves: Leaves, keys: torch.Tensor) -> torch.Tensor:
    """Gradient of the features and losses, float32 [B, D + 1]; the rows are not updated."""
    nodes = leaves.nodes.masked_fill(~leaves.mask, -1)
    shard = Shard.of(head.layout, torch.device("cpu"))
    dispatch = dispatch_to_owners(head.exchange, shard, features, nodes, positive_keys=keys)
    return CpuShortlistKernels().loss(head.rows, shard.leaf_rows, dispatch.candidates, head.schedule)


def train_union(
    head: ShardedLevel, features: torch.Tensor, nodes: np.ndarray, union: np.ndarray, keys: torch.Tensor
) -> torch.Tensor:
    """Compute what `sums_of` does, by products over the union's rows; the rows' gradients are computed and dropped."""
    num_labels, share = head.layout.num_labels, 1 / (WANTED_LEAVES * LABELS_PER_LEAF)
    weights, biases = head.rows.weight, head.rows.bias
    wanted = torch.zeros(len(features), len(union))
    wanted[torch.arange(len(features))[:, None], torch.from_numpy(np.searchsorted(union, nodes))] = share
    texts, positions = keys // num_labels, keys % num_labels
    sums = torch.zeros(len(features), WIDTH + 1)
    for first in range(0, len(union), CHUNK_LEAVES):
        part = union[first : first + CHUNK_LEAVES]
        labels = torch.from_numpy((part[:, None] * LABELS_PER_LEAF + np.arange(LABELS_PER_LEAF)).ravel())
        mask = wanted[:, first : first + CHUNK_LEAVES].repeat_interleave(LABELS_PER_LEAF, dim=1)
        here = torch.isin(positions, labels)
        place = texts[here], torch.searchsorted(labels, positions[here])
        weight = weights[labels]
        logits = features @ weight.T + biases[labels]
        loss = torch.nn.functional.softplus(logits).mul_(mask).sum(1)
        sums[:, -1] += loss.index_add_(0, place[0], logits[place], alpha=-share)
        slope = logits.sigmoid_()
        slope[place] -= 1
        slope *= mask
        _ = slope.T @ features
        sums[:, :-1] += slope @ weight
    return sums


if __name__ == "__main__":
    main()
