"""Trains the rows head on several processes, for comparison with a head of ordinary parameters."""

import numpy as np
import torch

from cxml.config import OptimConfig
from cxml.model import Leaves
from cxml.optim import TorchAllRowsKernels, TorchShortlistKernels
from cxml.parallel import Exchange, RowLayout, ShardedLevel, distributed, kernels_for, make_level

WIDTH, LR, STEPS = 5, 1e-2, 4


def level_of(kind, layout, width, exchange, head, optim, **options):
    """A sharded level with kernels of one kind: `cpu`, `torch` (the plain reference) or `triton`."""
    is_cpu, scores_all = kind == "cpu", head.candidates == "all"
    plain = TorchAllRowsKernels() if scores_all else TorchShortlistKernels()
    kernels = plain if kind == "torch" else kernels_for(head, on_device=not is_cpu)
    return ShardedLevel(layout, width, exchange, head, optim, kernels=kernels, on_device=not is_cpu, **options)


def make_problem(seed, num_leaves, counts, rows_per_leaf=6):
    """Leaves of 1 to `rows_per_leaf` - 1 random rows and, for each step, ragged texts of every rank."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, rows_per_leaf, num_leaves))]).astype(np.int64)
    num_labels = int(offsets[-1])
    weight = rng.normal(size=(num_labels, WIDTH)).astype(np.float32)
    bias = rng.normal(size=num_labels).astype(np.float32)
    steps = [[make_texts(rng, offsets, count) for count in counts] for _ in range(STEPS)]
    return offsets, weight, bias, steps


def make_texts(rng, offsets, count):
    num_leaves = len(offsets) - 1
    width = int(rng.integers(1, num_leaves + 1))
    nodes = np.stack([rng.permutation(num_leaves)[:width] for _ in range(count)])
    mask = rng.random((count, width)) < 0.7
    mask[:, 0] = True
    keys = []
    for text in range(count):
        wanted = [int(p) for node in nodes[text][mask[text]] for p in range(offsets[node], offsets[node + 1])]
        truths = rng.choice(wanted, size=int(rng.integers(1, len(wanted) + 1)), replace=False)
        elsewhere = int(rng.integers(offsets[-1]))  # mostly a row of a leaf that the text does not want
        keys += [text * int(offsets[-1]) + int(p) for p in {*truths.tolist(), elsewhere}]
    logits = rng.normal(size=(count, width)).astype(np.float32)
    leaves = Leaves(torch.from_numpy(nodes * mask), torch.from_numpy(mask), torch.from_numpy(logits))
    return rng.normal(size=(count, WIDTH)).astype(np.float32), leaves, torch.tensor(sorted(keys))


def train_rows(problem, cases):
    """Train the problem for each case (head config, micro-batches) on this rank. Returns what `_train_case` gathers."""
    with distributed(threads=1) as ranks:
        return [_train_case(problem, head_config, accumulation, ranks) for head_config, accumulation in cases]


def _train_case(problem, head_config, accumulation, ranks):
    """The losses and gradients of every rank and, at the end, its rows and predictions."""
    offsets, weight, bias, steps = problem
    results = []
    exchange, replicas = Exchange().split(head_config.group_size)
    layout = RowLayout.round_robin(offsets, exchange.rank, exchange.size)
    head = make_level(layout, WIDTH, exchange, head_config, OptimConfig(), replicas=replicas, accumulation=accumulation)
    head.import_rows(torch.arange(len(weight)), torch.from_numpy(weight), torch.from_numpy(bias))
    for first in range(0, STEPS, accumulation):
        head.schedule.begin_step(LR, 0.9)
        micro_batches = [texts[ranks.rank] for texts in steps[first : first + accumulation]]
        total = sum(len(part[0]) for texts in steps[first : first + accumulation] for part in texts)
        for features, leaves, keys in micro_batches:
            x = torch.from_numpy(features).requires_grad_()
            loss = head.loss(x, leaves, keys, 1 / total)
            loss.backward()
            results.append((loss.item(), x.grad.numpy()))
        head.finish_step(torch.tensor(True))
    features, leaves, _ = steps[0][ranks.rank]
    best = head.predict(torch.from_numpy(features), leaves, 3, weighted=True)
    empty = {"positions": [], "weight": np.zeros((0, WIDTH)), "bias": []}  # for a rank without rows
    blocks = [empty, *head.export_rows()]
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in empty}
    rows["positions"] = rows["positions"].astype(np.int64)
    gathered = [None] * ranks.world_size
    torch.distributed.all_gather_object(gathered, (results, rows, [tensor.numpy() for tensor in best]))
    return gathered
