"""Label heads with a common interface for measurements: each takes one training step on a batch of random texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from cxml.config import HeadConfig, OptimConfig, TrainConfig
from cxml.model import EngineHead, Leaves
from cxml.optim import RowState
from cxml.parallel import Exchange, Ranks, RowLayout, build_engine, make_level

WIDTH = 384
LABELS_PER_LEAF = 8  # about as in the paper's tree
TRUE_LABELS = 5


@dataclass(frozen=True)
class Problem:
    """A problem of L labels in leaves of eight and B texts per rank, each of which wants `candidates` labels."""

    num_labels: int
    batch_size: int = 16
    candidates: int = 1000

    @property
    def leaf_offsets(self) -> np.ndarray:
        """Label positions at which leaves begin and end, int64 [leaves + 1]."""
        return np.append(np.arange(0, self.num_labels, LABELS_PER_LEAF), self.num_labels).astype(np.int64)

    def texts(self, seed: int, num_texts: int) -> tuple[Tensor, Leaves, Tensor]:
        """Features, float32 [B, D], leaves drawn uniformly from all, and the keys of the true labels."""
        rng = np.random.default_rng(seed)
        num_leaves, wanted = len(self.leaf_offsets) - 1, self.candidates // LABELS_PER_LEAF
        nodes = np.stack([rng.choice(num_leaves, wanted, replace=False) for _ in range(num_texts)])
        true = nodes[:, :TRUE_LABELS] * LABELS_PER_LEAF
        keys = np.sort((np.arange(num_texts)[:, None] * self.num_labels + true).ravel())
        leaves = Leaves(torch.from_numpy(nodes), torch.ones(nodes.shape, dtype=torch.bool), torch.zeros(nodes.shape))
        features = rng.normal(size=(num_texts, WIDTH)).astype(np.float32) / 20
        return torch.from_numpy(features).requires_grad_(), leaves, torch.from_numpy(keys)


class Contender(Protocol):
    """A head in training."""

    def step(self, seed: int) -> None:
        """Take one training step on the texts drawn with `seed`."""
        ...


class Rows:
    """Rows sharded over the ranks, scored on shortlists or on all labels."""

    def __init__(self, problem: Problem, ranks: Ranks, head: HeadConfig | None = None) -> None:
        self.problem, self.ranks = problem, ranks
        layout = RowLayout.round_robin(problem.leaf_offsets, ranks.rank, ranks.world_size)
        self.exchange = Exchange()
        self.head = make_level(layout, WIDTH, self.exchange, head or HeadConfig(), OptimConfig())
        for tensor in vars(self.head.rows).values():
            tensor.add_(0)  # memory counts only after it is written to

    def step(self, seed: int) -> None:
        """See `Contender.step`."""
        features, leaves, keys = self.problem.texts(seed + self.ranks.rank, self.problem.batch_size)
        self.head.schedule.begin_step(1e-3, 0.9)
        scale = 1 / (self.problem.batch_size * self.ranks.world_size)
        (self.head.loss(features, leaves, keys, scale) * scale).backward()
        self.head.finish_step(torch.tensor(True))


class InEngine:
    """Ordinary parameters in a DeepSpeed engine, at ZeRO stage 1 or 3."""

    def __init__(self, problem: Problem, ranks: Ranks, zero_stage: int) -> None:
        self.problem, self.ranks = problem, ranks
        train = TrainConfig(batch_size=problem.batch_size * ranks.world_size, zero_stage=zero_stage)  # pyright: ignore[reportArgumentType]
        self.engine = build_engine(_HeadAlone(problem), train, OptimConfig(), ranks)

    def step(self, seed: int) -> None:
        """See `Contender.step`."""
        features, leaves, keys = self.problem.texts(seed + self.ranks.rank, self.problem.batch_size)
        self.engine.backward(self.engine(features, leaves, keys) / self.problem.batch_size)
        self.engine.step()


class _HeadAlone(nn.Module):
    """ZeRO-3 gathers weights around module calls, so the head needs a `forward`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.head = EngineHead(torch.from_numpy(problem.leaf_offsets), problem.num_labels, WIDTH, block_rows=65536)

    def forward(self, features_BD: Tensor, leaves: Leaves, keys: Tensor) -> Tensor:
        return self.head.loss(features_BD, leaves, keys, 1.0)


class Dense:
    """`nn.Embedding` and torch's fused AdamW in one process, on the texts of all ranks, with all cores."""

    def __init__(self, problem: Problem, ranks: Ranks) -> None:
        self.problem, self.ranks = problem, ranks
        if not ranks.is_first:
            return
        self.weight = nn.Embedding(problem.num_labels, WIDTH)
        self.bias = nn.Embedding(problem.num_labels, 1)
        parameters = [self.weight.weight, self.bias.weight]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.005, fused=True)

    def step(self, seed: int) -> None:
        """See `Contender.step`; ranks other than the first do nothing."""
        if not self.ranks.is_first:
            return
        torch.set_num_threads(psutil.cpu_count() or 1)
        features, leaves, keys = self.problem.texts(seed, self.problem.batch_size * self.ranks.world_size)
        labels = (leaves.nodes[:, :, None] * LABELS_PER_LEAF + torch.arange(LABELS_PER_LEAF)).flatten(1)
        labels = labels.clamp(max=self.problem.num_labels - 1)
        logits = torch.bmm(self.weight(labels), features.unsqueeze(-1)) + self.bias(labels)
        texts = torch.arange(len(labels))[:, None]
        truth = torch.isin(texts * self.problem.num_labels + labels, keys).float()
        nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), truth).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        torch.set_num_threads(1)


def build(name: str, problem: Problem, ranks: Ranks) -> Contender:
    """Make a head by name: rows, full (rows with all labels scored), zero1, zero3 or dense."""
    if name in ("rows", "full"):
        return Rows(problem, ranks, HeadConfig(candidates="shortlist" if name == "rows" else "all"))
    return Dense(problem, ranks) if name == "dense" else InEngine(problem, ranks, int(name.removeprefix("zero")))


def bytes_needed(name: str, num_labels: int, num_ranks: int) -> int:
    """Upper estimate of the bytes of all ranks in a step, by which heads that do not fit are left out."""
    row = RowState.bytes_per_row(WIDTH, optimizer="adamw", weights="fp32", second_moment="full")
    weight = 4 * (WIDTH + 1)
    # Weights, gradients, a flat copy of each, and sharded moments. ZeRO-3 also holds whole gradients for a while; with
    # an estimate of 9 weights per label it ran out of memory.
    per_label = {
        "rows": row,
        "full": row,
        "dense": 5 * weight,
        "zero1": (4 * num_ranks + 4) * weight,
        "zero3": (2 * num_ranks + 8) * weight,
    }
    return num_labels * per_label[name]
