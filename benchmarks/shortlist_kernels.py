"""Shortlists with labels in common: each pair's product in one visit of its row, or one product over the batch's union.

    python benchmarks/shortlist_kernels.py [--labels 100000] [--texts 32 128 512]

Loss, gradient of the features and gradients of the rows for a batch of texts that want 1,000 labels each, in leaves of
eight, drawn evenly or by a power law (leaf c with weight 1 / (c + 50), so that texts share many). The first way is
`cxml.optim.train_groups`; the second gathers the union's rows, multiplies all texts by all of them with torch and masks
what no text asked for. Nothing is updated. Medians of alternating runs, one thread; prints the union's density too.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from label_heads import LABELS_PER_LEAF, WIDTH
from rich.console import Console
from rich.table import Table

from cxml.config import HeadConfig, OptimConfig
from cxml.model import Leaves
from cxml.parallel import Exchange, RowLayout, RowsHead

WANTED_LEAVES = 125
ROUNDS = 7


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--texts", type=int, nargs="+", default=[32, 128, 512])
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"{options.labels:,} labels, ms per batch", title_justify="left")
    for heading in ("draw", "texts", "density", "row by row", "union", "union / row by row"):
        table.add_column(heading, justify="right")
    head = make_head(options.labels)
    for draw in ("even", "power law"):
        for num_texts in options.texts:
            table.add_row(draw, str(num_texts), *measure(head, draw, num_texts))
    Console().print(table)


def make_head(num_labels: int) -> RowsHead:
    """Random rows."""
    offsets = np.arange(0, num_labels + 1, LABELS_PER_LEAF).astype(np.int64)
    head = RowsHead(RowLayout.deal(offsets, 0, 1), WIDTH, Exchange(), HeadConfig(optimizer="sgd"), OptimConfig())
    head.state.weight[:] = np.random.default_rng(0).normal(size=head.state.weight.shape) / 20
    return head


def measure(head: RowsHead, draw: str, num_texts: int) -> tuple[str, str, str, str]:
    """Density of the union, milliseconds of both ways, their ratio."""
    rng = np.random.default_rng(1)
    num_leaves = len(head.layout.leaf_offsets) - 1
    weights = np.ones(num_leaves) if draw == "even" else 1 / (np.arange(num_leaves) + 50)
    weights /= weights.sum()
    nodes = np.stack([rng.choice(num_leaves, WANTED_LEAVES, replace=False, p=weights) for _ in range(num_texts)])
    leaves = Leaves(torch.from_numpy(nodes), torch.ones(nodes.shape, dtype=torch.bool), torch.ones(nodes.shape))
    keys = torch.arange(num_texts) * head.layout.num_labels + torch.from_numpy(nodes[:, 0]) * LABELS_PER_LEAF
    features = torch.from_numpy(rng.normal(size=(num_texts, WIDTH)).astype(np.float32) / 20)
    union = np.unique(nodes)
    ways = {
        "rows": lambda: head.train(features, leaves, keys, 1.0, updates=False),
        "union": lambda: train_union(head, features, nodes, union, keys.sort().values),
    }
    np.testing.assert_allclose(ways["rows"]().numpy(), ways["union"]().numpy(), rtol=1e-2, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    rows, both = (statistics.median(seconds[name]) * 1000 for name in ways)
    density = nodes.size / (len(union) * num_texts)
    return f"{density:.3f}", f"{rows:.0f}", f"{both:.0f}", f"{both / rows:.2f}"


def train_union(
    head: RowsHead, features: torch.Tensor, nodes: np.ndarray, union: np.ndarray, keys: torch.Tensor
) -> torch.Tensor:
    """What `RowsHead.train` gives, by products over the union's rows; the rows' gradients are taken and dropped."""
    num_texts = len(features)
    labels = torch.from_numpy((union[:, None] * LABELS_PER_LEAF + np.arange(LABELS_PER_LEAF)).ravel())
    wanted = torch.zeros(num_texts, len(union), dtype=torch.bool)
    wanted[torch.arange(num_texts)[:, None], torch.from_numpy(np.searchsorted(union, nodes))] = True
    mask = wanted.repeat_interleave(LABELS_PER_LEAF, dim=1)
    weight = torch.from_numpy(head.state.weight)[labels]
    logits = features @ weight.T + torch.from_numpy(head.state.bias)[labels]
    texts, positions = keys // head.layout.num_labels, keys % head.layout.num_labels
    columns = torch.searchsorted(labels, positions)
    share = 1 / (WANTED_LEAVES * LABELS_PER_LEAF)
    loss = (torch.nn.functional.softplus(logits) * mask).sum(1).index_add_(0, texts, logits[texts, columns], alpha=-1)
    slope = logits.sigmoid_()
    slope[texts, columns] -= 1
    slope *= mask * share
    _ = slope.T @ features
    return torch.cat([slope @ weight, loss[:, None] * share], dim=1)


if __name__ == "__main__":
    main()
