"""How large a run will be, from its config, its data and its encoder, before it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cxml import extras, ray_cluster
from cxml.config import Config
from cxml.data import DataManifest, ShardedDataset, data_url, parts_of_names, read_labels, resolve_encoder
from cxml.data_tools.formats import read_source
from cxml.data_tools.preparation import is_prepared, load_tokenizer, tokenize
from cxml.launching import processes_per_machine
from cxml.model import build_encoder, read_encoder_config
from cxml.optim import RowState
from cxml.parallel import Plan, local_world_size, make_plan, require_engine
from cxml.report import require_baseline
from cxml.tree import fit_levels

_SAMPLE = 2000  # texts tokenised to learn their lengths


@dataclass(frozen=True)
class DataFacts:
    """Sizes of the training: texts, with the names trained on, labels, and the mean tokens of a padded batch."""

    num_texts: int
    num_labels: int
    padded_length: int


def require_packages(config: Config) -> None:
    """Refuse a training whose optional packages and encoder are not all installed, before its first stage begins.

    Raises:
        ConfigError: one is missing; names the `pip install` that brings it.
    """
    resolve_encoder(config.model.encoder)
    require_engine(config.train.num_workers)
    engines = {
        "data.engine": config.data.engine, "tree.engine": config.tree.engine, "launch.launcher": config.launch.launcher
    }  # fmt: skip
    for field, engine in engines.items():
        if engine == "ray":
            ray_cluster.require_ray(field)
    if config.log.tensorboard:
        extras.require("log.tensorboard", True, "tensorboard", otherwise="set it to false")
    if config.tree.name_features == "tfidf":
        extras.require("tree.name_features", "tfidf", "sklearn")
    if config.evaluate.baseline:
        require_baseline()


def plan_run(config: Config) -> tuple[Plan, DataFacts]:
    """The plan of a run's training, and the facts about its data that it rests on.

    Raises:
        CxmlError: whatever would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    facts = _data_facts(config)
    config = fit_levels(config, facts.num_labels)
    ranks_per_copy = _ranks_per_copy(config)
    parameters, trained, label_state = _count_weights(config, facts.num_labels, ranks_per_copy)
    plan = make_plan(
        parameters,
        trained,
        config.train,
        num_texts=facts.num_texts,
        world_size=config.train.num_workers,
        num_labels=facts.num_labels,
        label_state=label_state,
        group_size=ranks_per_copy,
    )
    return plan, facts


def texts_per_micro_batch(config: Config) -> int:
    """Most texts that a process works on at once."""
    return math.ceil(config.train.batch_size / (config.train.num_workers * config.train.accumulation))


def _ranks_per_copy(config: Config) -> int:
    """How many processes share a copy of the label rows: `head.group_size`, or as many as a machine will run."""
    if config.head.group_size != "node":
        return config.head.group_size or config.train.num_workers
    if "WORLD_SIZE" in os.environ:  # a launcher has started this process
        return local_world_size()
    return processes_per_machine(config)


def _data_facts(config: Config) -> DataFacts:
    """From the prepared data if it is there, else from the raw texts."""
    if is_prepared(config):
        manifest = DataManifest.read(data_url(config))
        lengths = ShardedDataset(data_url(config), "train").lengths[:_SAMPLE]
        names = read_labels(data_url(config))[0] if config.train.name_texts else []
        num_texts = manifest.rows("train") + _num_names(config, names)
        return DataFacts(num_texts, manifest.num_labels, _padded(config, lengths))
    raw = read_source(config.data.source)
    texts = raw.splits["train"].texts
    tokenizer, _ = load_tokenizer(config)
    lengths = tokenize(tokenizer, texts[:_SAMPLE], config.data.max_length).lengths
    num_texts = len(texts) + _num_names(config, raw.label_names)
    return DataFacts(num_texts, len(raw.label_names), _padded(config, lengths))


def _num_names(config: Config, names: Sequence[str]) -> int:
    """Names of labels that are trained on as texts."""
    return len(parts_of_names(names, config.train.name_texts)) if config.train.name_texts else 0


def _padded(config: Config, lengths: np.ndarray) -> int:
    """Mean over batches of the longest text in each."""
    size = min(texts_per_micro_batch(config), len(lengths))
    whole = lengths[: len(lengths) // size * size]
    return round(whole.reshape(-1, size).max(1).mean())


def _count_weights(
    config: Config, num_labels: int, ranks_per_copy: int
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Weights of each part that the engine holds, those that learn, and a label's bytes where it does not hold them."""
    with torch.device("meta"):
        encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model))
    in_engine, label_state = list(config.tree.sizes), {}
    if config.head.implementation == "rows":
        head = config.head
        label_state = RowState.bytes_by_state(
            encoder.hidden_size, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
        )
        has_copies = ranks_per_copy < config.train.num_workers
        if head.candidates == "all" and (config.train.accumulation > 1 or has_copies or head.clip_global_norm):
            label_state["gradient"] = 4 * (encoder.hidden_size + 1)
    else:
        in_engine.append(num_labels)
    heads = {
        f"level {level} head ({size:,} nodes)": size * (encoder.hidden_size + 1) for level, size in enumerate(in_engine)
    }
    return {"encoder": _count(encoder), **heads}, {"encoder": _count(encoder, learning=True), **heads}, label_state


def _count(module: nn.Module, *, learning: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)
