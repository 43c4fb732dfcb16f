"""Classifiers that start from centroids have the weights and biases of the formula, on one process and on three.

Oracle: a loop over the texts in float64.
"""

import dataclasses

import numpy as np
import pytest
import torch
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml.config import Config
from cxml.data import ShardedDataset, collate, data_url
from cxml.model import build_model
from cxml.parallel import Exchange, distributed, run_workers, sharded_levels
from cxml.training.centroids import start_from_centroids
from cxml.tree import LabelTree, tree_url

HEADS = {
    "rows": {},
    "rows, all labels": {"candidates": "all"},
    "rows in bf16": {"weights": "bf16"},
    "a copy of the rows on each process": {"group_size": 1},
    "zero3": {"implementation": "zero3"},
    "rows behind a bottleneck": {},
    "the encoder in bf16": {},
}
WIDE, NARROW = 32, 8


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("centroids")
    base = small_config(folder, make_encoder(folder / "encoder"), model={"pooling": "mean"})
    prepare_with_tree(base)
    return base


def fresh_model(config):
    torch.manual_seed(0)
    tree = LabelTree.load(tree_url(config))
    is_sharded = config.head.implementation == "rows"
    return build_model(
        config.model, tree, make_levels=sharded_levels(tree, Exchange(), config) if is_sharded else None
    ), tree


def started(configs: list[Config], dtypes: list[torch.dtype]) -> list[dict[str, np.ndarray]]:
    """Of each config: weights and biases of all levels as this process has them, and which labels those are."""
    found = []
    with distributed(threads=1) as ranks:
        for config, dtype in zip(configs, dtypes, strict=True):
            model, _ = fresh_model(config)
            start_from_centroids(model, ShardedDataset(data_url(config), "train"), ranks, batch_size=50, dtype=dtype)
            assert all(parameter.dtype == torch.float32 for parameter in model.encoder.parameters())
            head = model.label_head
            rows = [(head.own_positions(), *_rows_of(head))]
            found.append(
                {f"{kind} {level}": getattr(part, kind).detach().numpy()
                 for level, part in enumerate(model.cluster_heads) for kind in ("weight", "bias")}
                | {name: torch.cat(parts).float().numpy()
                   for name, parts in zip(("positions", "weight 2", "bias 2"), zip(*rows, strict=True), strict=True)}
            )  # fmt: skip
    return found


def _rows_of(head):
    if hasattr(head, "blocks"):
        return (torch.cat([getattr(block, kind).detach() for block in head.blocks]) for kind in ("weight", "bias"))
    blocks = list(head.export_rows())
    if not blocks:  # a copy; the first has them
        return head.rows.weight, head.rows.bias
    return (torch.cat([block[kind] for block in blocks]) for kind in ("weight", "bias"))


def bottleneck_of(head):
    return NARROW if "bottleneck" in head else 0


@pytest.fixture(scope="module")
def starts(config):
    """By head and number of processes: what the first process begins with, the others' rows joined to its own."""
    configs = [
        dataclasses.replace(
            config, head=dataclasses.replace(config.head, **head),
            train=dataclasses.replace(config.train, zero_stage=3 if "zero3" in name else 0),
            model=dataclasses.replace(config.model, bottleneck=bottleneck_of(name)),
        )
        for name, head in HEADS.items()
    ]  # fmt: skip
    dtypes = [torch.bfloat16 if "encoder in bf16" in name else torch.float32 for name in HEADS]
    return {
        (name, count): found
        for count in (1, 3)
        for name, found in zip(HEADS, run_workers(started, (configs, dtypes), count), strict=True)
    }


def expected(config, bottleneck):
    """The same from a loop over the texts, in float64: weights and biases of each level."""
    settings = dataclasses.replace(config.model, bottleneck=bottleneck)
    model, tree = fresh_model(dataclasses.replace(config, model=settings))
    model.eval()
    dataset = ShardedDataset(data_url(config), "train")
    pad_id = dataset.manifest.tokenizer.pad_id
    features, labels = [], []
    for row in range(len(dataset)):
        batch = collate(*dataset.gather(np.array([row])), pad_id=pad_id, global_size=1)
        with torch.no_grad():
            features.append([each[0].double().numpy() for each in model.encoder(batch.input_ids, batch.attention_mask)])
        labels.append(batch.label_values.tolist())
    position = np.argsort(tree.label_order)
    levels = []
    for level, size in enumerate(tree.level_sizes):
        of_label = position if level == len(tree.offsets) else tree.cluster_of_label(level)
        texts = np.stack([each[level] for each in features])
        mean = texts.mean(0)
        spread = np.sqrt(((texts - mean) ** 2).sum(1).mean())
        weight, bias = np.zeros((size, texts.shape[1])), np.zeros(size)
        for node in range(size):
            own = [row for row, each in enumerate(labels) if node in of_label[each]]
            if 0 < len(own) < len(texts):  # else it has no direction of its own
                direction = texts[own].mean(0) - mean
                scale = 16 * np.sqrt(texts.shape[1] / WIDE)
                weight[node] = scale * direction / np.linalg.norm(direction) / spread
            bias[node] = -6 + np.log(max(len(own), 0.5) / (len(texts) - len(own) + 1)) / 2 - weight[node] @ mean
        levels.append((weight, bias))
    return levels


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("head", HEADS)
def test_every_row_is_the_scaled_centroid_of_its_texts(config, starts, head, count):
    found = starts[head, count]
    tolerance = 2e-2 if "bf16" in head else 2e-3
    for level, (weight, bias) in enumerate(expected(config, bottleneck_of(head))):
        rows = found["positions"].astype(int) if level == 2 else np.arange(len(weight))
        assert len(rows) > 0
        for name, wanted in (("weight", weight), ("bias", bias)):
            near = tolerance * np.abs(wanted).max()
            np.testing.assert_allclose(found[f"{name} {level}"], wanted[rows], rtol=tolerance, atol=near)
