"""Trains cascades whose levels are sharded over ranks, for comparison with one of ordinary parameters."""

import dataclasses
import itertools

import numpy as np
import torch
from torch import nn

from cxml.accelerators import host_may_wait
from cxml.config import Config, DataConfig, HeadConfig, OptimConfig, SourceConfig, TrainConfig
from cxml.data import Batch, BatchLimits
from cxml.model import CascadeXML
from cxml.parallel import Exchange, distributed, node_selection, pairs, pending_update, routing, sharded_levels
from cxml.tree import LabelTree

WIDTH, LR, STEPS = 6, 0.5, 3
SIZES = (2, 5, 7)  # shortlist sizes of the cluster levels
SGD = HeadConfig(optimizer="sgd", shard_from=1)


@dataclasses.dataclass
class Problem:
    """A tree, the weights of its levels, and for each step and rank the features of every level and the labels."""

    tree: LabelTree
    weights: list
    features: list
    labels: list


class FixedFeatures(nn.Module):
    """Replaces the encoder. Its outputs are the tensors in `features`."""

    def __init__(self, num_levels):
        super().__init__()
        self.features = []
        self.feature_sizes = (WIDTH,) * num_levels

    def forward(self, input_ids, attention_mask, windows=None):
        return self.features


def make_problem(seed, sizes, counts):
    """A random tree with nodes of one and of many children, and random texts of each rank.

    Args:
        seed: seed of all random numbers.
        sizes: nodes of each level of the tree, labels last.
        counts: texts of each rank.
    """
    rng = np.random.default_rng(seed)
    offsets = []
    for above, below in itertools.pairwise(sizes):
        cuts = np.sort(rng.choice(np.arange(1, below), above - 1, replace=False)) if above > 1 else []
        offsets.append(np.concatenate([[0], cuts, [below]]).astype(np.int64))
    tree = LabelTree(rng.permutation(sizes[-1]).astype(np.int32), tuple(offsets))
    weights = [
        (rng.normal(size=(size, WIDTH)).astype(np.float32), rng.normal(size=size).astype(np.float32)) for size in sizes
    ]
    features = [
        [[rng.normal(size=(count, WIDTH)).astype(np.float32) for _ in sizes] for count in counts] for _ in range(STEPS)
    ]
    most = min(4, sizes[-1])
    labels = [[[_draw_labels(rng, sizes[-1], most) for _ in range(count)] for count in counts] for _ in range(STEPS)]
    return Problem(tree, weights, features, labels)


def _draw_labels(rng, num_labels, most):
    return sorted(rng.choice(num_labels, rng.integers(1, most + 1), replace=False))


def make_batch(labels, global_size, limits):
    size = len(labels)
    return Batch(
        input_ids=torch.zeros(size, 1, dtype=torch.int64),
        attention_mask=torch.ones(size, 1, dtype=torch.int64),
        label_values=torch.tensor([label for own in labels for label in own], dtype=torch.int64),
        label_offsets=torch.tensor([0, *np.cumsum([len(own) for own in labels])]),
        lengths=np.ones(size, np.int64),
        global_size=global_size,
        limits=limits,
    )


def limits_of(labels):
    """The batch limits for the texts of all ranks."""
    counts = [[len(own) for own in rank] for rank in labels]
    return BatchLimits(max(map(len, counts)), max(map(sum, counts)), max(map(max, counts)))


def train_plain(problem):
    """Train a cascade of ordinary parameters with SGD. Returns the model, and losses and feature gradients by batch."""
    tree = problem.tree
    model = CascadeXML(FixedFeatures(len(problem.weights)), tree, shortlist_sizes=SIZES[: len(tree.offsets)])
    heads = [*model.cluster_heads, *model.label_head.blocks]
    with torch.no_grad():
        for head, (weight, bias) in zip(heads, problem.weights, strict=True):
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
    decay = OptimConfig().classifier_weight_decay
    seen = []
    for features, labels in zip(problem.features, problem.labels, strict=True):
        total = sum(len(rank) for rank in labels)
        for own_features, own_labels in zip(features, labels, strict=True):
            model.encoder.features = [torch.from_numpy(values).requires_grad_() for values in own_features]
            loss, by_level = model(make_batch(own_labels, total, limits_of(labels)))
            (loss / total).backward()
            seen.append((by_level.numpy(), [values.grad.numpy() * total for values in model.encoder.features]))
        with torch.no_grad():
            for head in heads:
                head.weight.mul_(1 - LR * decay).sub_(LR * head.weight.grad)
                head.bias.sub_(LR * head.bias.grad)
        model.zero_grad()
    return model, seen


def train_sharded(jobs):
    """By job and rank: losses and gradients, all rows of all levels, and predictions.

    A job is a problem, a head config and the number of micro-batches. True at the end sends padded tensors, as between
    accelerators.
    """
    with distributed(threads=1) as ranks:
        gathered = []
        for problem, head_config, accumulation, *pads in jobs:
            for module in (pairs, routing, pending_update, node_selection):
                module.host_may_wait = (lambda _: False) if pads else host_may_wait
            own = _train_sharded(problem, head_config, accumulation, ranks)
            everyone = [None] * ranks.world_size
            torch.distributed.all_gather_object(everyone, own)
            gathered.append(everyone)
        return gathered


def build_sharded(problem, head_config, accumulation=1):
    """A cascade with the problem's weights, and its sharded levels."""
    tree = problem.tree
    config = Config(
        output="unused",
        data=DataConfig(source=SourceConfig(path="unused")),
        head=head_config,
        train=TrainConfig(accumulation=accumulation),
    )
    encoder = FixedFeatures(len(problem.weights))
    clusters, labels = sharded_levels(tree, Exchange(), config)(encoder.feature_sizes)
    model = CascadeXML(
        encoder, tree, label_head=labels, cluster_levels=clusters, shortlist_sizes=SIZES[: len(tree.offsets)]
    )
    levels = [*clusters, labels]
    for level, (weight, bias) in zip(levels, problem.weights[len(model.cluster_heads) :], strict=True):
        level.import_rows(torch.arange(len(bias)), torch.from_numpy(weight), torch.from_numpy(bias))
    with torch.no_grad():
        for head, (weight, bias) in zip(model.cluster_heads, problem.weights, strict=False):
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
    return model, levels


def _train_sharded(problem, head_config, accumulation, ranks):
    model, levels = build_sharded(problem, head_config, accumulation)
    seen = []
    for features, texts in zip(problem.features, problem.labels, strict=True):
        total, limits = sum(len(rank) for rank in texts), limits_of(texts)
        levels[-1].schedule.begin_step(LR, 0.9)
        own, own_texts = features[ranks.rank], texts[ranks.rank]
        cuts = np.linspace(0, len(own_texts), accumulation + 1).astype(int)
        parts = []
        for start, stop in itertools.pairwise(cuts):
            model.encoder.features = [torch.from_numpy(values[start:stop]).requires_grad_() for values in own]
            loss, by_level = model(make_batch(own_texts[start:stop], total, limits))
            loss.backward()
            parts.append((by_level.numpy(), [values.grad.numpy() for values in model.encoder.features]))
        model.finish_step(torch.tensor(True))
        _learn(model.cluster_heads, total)
        losses, gradients = zip(*parts, strict=True)
        seen.append((sum(losses), [np.concatenate(own) for own in zip(*gradients, strict=True)]))
    whole = [[part.numpy() for part in level.gather_rows(True)] for level in levels]
    return seen, whole, predict(model, problem, ranks.rank)


def _learn(heads, total):
    """One step of plain SGD for the levels of ordinary parameters, in place of the engine."""
    decay = OptimConfig().classifier_weight_decay
    with torch.no_grad():
        for head in heads:
            for parameter, shrinks in ((head.weight, True), (head.bias, False)):
                torch.distributed.all_reduce(parameter.grad)
                parameter.mul_(1 - LR * decay if shrinks else 1.0).sub_(LR * parameter.grad / total)
                parameter.grad = None


def predict(model, problem, rank):
    """The best nodes of every level, their logits and the shortlist passed on, for a rank's texts of the first step."""
    model.encoder.features = [torch.from_numpy(values) for values in problem.features[0][rank]]
    with torch.no_grad():
        found = model(make_batch(problem.labels[0][rank], 1, limits_of(problem.labels[0])), predict_k=4)
    return [
        (level.nodes.numpy(), level.logits.numpy(), None if level.selected is None else level.selected.numpy())
        for level in found
    ]
