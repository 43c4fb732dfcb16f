"""What a run would do: its plan, bytes per rank, steps and time, from the real data and a few timed steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import nn

from cxml.config import Config
from cxml.data import DataManifest, ShardedDataset, data_url
from cxml.model import build_encoder, read_encoder_config
from cxml.optim import RowState
from cxml.parallel import Plan, make_plan
from cxml.tree import plan_splits
from data_tools.formats import read_source
from data_tools.preparation import is_prepared, load_tokenizer, tokenize

_SAMPLE = 2000  # texts tokenised to learn their lengths
_TIMED_STEPS = 3


@dataclass(frozen=True)
class DataFacts:
    """Sizes of the training split: texts, labels and the mean number of tokens in a padded batch."""

    num_texts: int
    num_labels: int
    padded_length: int


def dry_run(config: Config) -> Plan:
    """Check the config against its data and encoder, print the plan and an estimate of the time, and write nothing.

    Raises:
        CxmlError: whatever would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    facts = _data_facts(config)
    plan_splits(facts.num_labels, config.tree.level_sizes)
    parameters, trained, row_bytes = _count_weights(config, facts.num_labels)
    plan = make_plan(
        parameters,
        trained,
        config.train,
        num_texts=facts.num_texts,
        world_size=config.train.num_workers,
        label_rows=row_bytes,
    )
    console = Console()
    console.print(plan.table())
    console.print(
        f"{facts.num_texts:,} texts, {facts.num_labels:,} labels, batches about {facts.padded_length} tokens wide"
    )
    seconds = _seconds_per_text(config, facts.padded_length) * facts.num_texts * config.train.epochs
    console.print(
        f"Estimate: {_spoken(seconds / config.train.num_workers)} of training, if every process has a device like "
        "this one, from timed steps of the encoder; label heads, data preparation and the tree come on top."
    )
    return plan


def _data_facts(config: Config) -> DataFacts:
    """From the prepared data if it is there, else from the raw texts."""
    if is_prepared(config):
        manifest = DataManifest.read(data_url(config))
        lengths = ShardedDataset(data_url(config), "train").lengths[:_SAMPLE]
        return DataFacts(manifest.rows("train"), manifest.num_labels, _padded(config, lengths))
    raw = read_source(config.data.source)
    texts = raw.splits["train"].texts
    tokenizer, _ = load_tokenizer(config)
    lengths = tokenize(tokenizer, texts[:_SAMPLE], config.data.max_length).lengths
    return DataFacts(len(texts), len(raw.label_names), _padded(config, lengths))


def _padded(config: Config, lengths: np.ndarray) -> int:
    """Mean over batches of the longest text in each."""
    size = min(_texts_per_micro_batch(config), len(lengths))
    whole = lengths[: len(lengths) // size * size]
    return round(whole.reshape(-1, size).max(1).mean())


def _texts_per_micro_batch(config: Config) -> int:
    return math.ceil(config.train.batch_size / (config.train.num_workers * config.train.accumulation))


def _count_weights(config: Config, num_labels: int) -> tuple[dict[str, int], dict[str, int], int]:
    """Weights of each part that the engine holds, those that learn, and bytes of label rows that it does not hold."""
    with torch.device("meta"):
        encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model))
    in_engine, row_bytes = list(config.tree.level_sizes), 0
    if config.head.implementation == "rows":
        head = config.head
        row_bytes = num_labels * RowState.bytes_per_row(
            encoder.hidden_size, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
        )
    else:
        in_engine.append(num_labels)
    heads = {
        f"level {level} head ({size:,} nodes)": size * (encoder.hidden_size + 1) for level, size in enumerate(in_engine)
    }
    return {"encoder": _count(encoder), **heads}, {"encoder": _count(encoder, learning=True), **heads}, row_bytes


def _count(module: nn.Module, *, learning: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)


def _seconds_per_text(config: Config, length: int) -> float:
    """Forward and backward of the encoder on random tokens; a random encoder takes as long as a pretrained one."""
    torch.set_num_threads(config.train.threads_per_worker or torch.get_num_threads())
    encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model))
    if config.train.activation_checkpointing:
        encoder.recompute_activations()
    size = _texts_per_micro_batch(config)
    input_ids = torch.randint(encoder.transformer.config.vocab_size, (size, length))
    times = []
    for _ in range(_TIMED_STEPS + 1):
        began = time.perf_counter()
        features = encoder(input_ids, torch.ones_like(input_ids))
        torch.stack([feature.sum() for feature in features]).sum().backward()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[_TIMED_STEPS // 2] / size


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
