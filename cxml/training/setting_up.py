"""Set up a training from a config, on all ranks together: data, tree, model, engine and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from cxml.accelerators import encoder_dtype, use_deterministic_algorithms
from cxml.checkpoint import TrainingState, load_start
from cxml.config import Config
from cxml.data import TextRows, TrainLoader, data_url, padded_lengths, window_rule, with_names
from cxml.model import build_model
from cxml.optim import Schedule
from cxml.parallel import Exchange, Ranks, ShardedLevel, build_engine, set_collective_timeout, sharded_levels
from cxml.training.centroids import start_from_centroids
from cxml.training.epoch_selection import train_texts_of
from cxml.training.precision import resolve_precision
from cxml.tree import LabelTree, tree_url

_MOST_LENGTHS = 8  # matrix products for this many lengths fit into oneDNN's cache, see `cxml.accelerators.bound_caches`


def set_up(config: Config, ranks: Ranks, offered: Sequence[str] = ()) -> tuple[TrainingState, Schedule]:
    """Create data, tree, model, engine and schedule of a run; a collective call.

    Args:
        config: the run's config. The returned state has a copy with a `train.precision` other than `auto`.
        ranks: the ranks of this process.
        offered: the checkpoints to resume from, best first; without any, the weights are those of a new run.
    """
    is_new, config = not offered, resolve_precision(config, ranks, offered)
    if config.train.deterministic:
        use_deterministic_algorithms()
    return set_up_on(
        _with_names(train_texts_of(config), config), LabelTree.load(tree_url(config)), config, ranks, is_new=is_new
    )


def set_up_on(
    dataset: TextRows, tree: LabelTree, config: Config, ranks: Ranks, *, is_new: bool = True
) -> tuple[TrainingState, Schedule]:
    """`set_up` with given texts and a given tree, which may differ from those of `config`."""
    windows = window_rule(config, device=ranks.device)
    loader = TrainLoader(
        dataset, batch_size=config.train.batch_size, seed=config.seed, rank=ranks.rank, world_size=ranks.world_size,
        accumulation=config.train.accumulation, pad_id=dataset.manifest.tokenizer.pad_id,
        bucket_by_length=config.train.bucket_by_length, batch_tokens=config.train.batch_tokens, device=ranks.device,
        pad_to=_lengths(config, ranks), windows=windows,
    )  # fmt: skip
    torch.manual_seed(config.seed)  # every rank starts from the same weights
    is_sharded = config.head.implementation == "rows"
    make_levels = sharded_levels(tree, Exchange(), config) if is_sharded else None
    model = build_model(config.model, tree, make_levels=make_levels)
    if config.model.start_from and is_new:
        load_start(config.model, model, tree)
    if config.model.classifier_start == "centroids" and is_new:
        dtype = encoder_dtype(config.train.precision, ranks.device)
        start_from_centroids(model, dataset, ranks, config.evaluate.batch_size, windows, dtype=dtype)
    if config.train.compile:
        model.encoder.compile_layers(ranks.device, recompute=config.train.activation_checkpointing)
    elif config.train.activation_checkpointing:
        model.encoder.recompute_activations()
    model.encoder.splits_batches = splits_batches(config, ranks.device)
    engine = build_engine(model, config.train, config.optim, ranks)
    set_collective_timeout(config.train.hang_minutes)  # including groups that were created above
    torch.manual_seed(config.seed + ranks.rank)  # and each rank draws its own dropout
    schedule = Schedule(
        cast(torch.optim.Optimizer, engine.optimizer),
        steps_per_epoch=loader.steps_per_epoch,
        epochs=_planned_epochs(config, loader),
        config=config.optim,
        rows=model.label_head.schedule if isinstance(model.label_head, ShardedLevel) else None,
        rows_lr=config.head.learning_rate,
    )
    return TrainingState(config, engine, tree, loader, ranks), schedule


def _planned_epochs(config: Config, loader: TrainLoader) -> float:
    """Number of epochs of the schedule, with the fraction of the last one."""
    epochs, steps = config.train.epochs, config.train.steps
    return min(steps / loader.steps_per_epoch, epochs) if steps else epochs


def _lengths(config: Config, ranks: Ranks) -> tuple[int, ...]:
    """The padded lengths of batches, if code is compiled for each batch size; empty: the longest text of each batch."""
    train = config.train
    if train.compile:
        return padded_lengths(config.tokens_at_once)
    is_whole = config.tokens_at_once == config.data.max_length
    has_like_batches = is_whole and not train.bucket_by_length and not train.batch_tokens  # else sizes vary
    if train.precision == "bf16" and ranks.device.type == "cpu" and has_like_batches:
        return padded_lengths(config.data.max_length, _MOST_LENGTHS)
    return ()


def splits_batches(config: Config, device: torch.device) -> bool:
    """Whether training on `device` computes batches of mixed lengths in two parts (decision 32).

    Accelerators are faster with one part. With ZeRO 3, all ranks have to call each layer equally often.
    """
    is_whole = bool(config.model.window or config.train.compile) or config.train.zero_stage == 3
    return device.type == "cpu" and not is_whole


def _with_names(texts: TextRows, config: Config) -> TextRows:
    if not config.train.name_texts:
        return texts
    return with_names(texts, data_url(config), config.train.name_texts, config.data.max_length)
