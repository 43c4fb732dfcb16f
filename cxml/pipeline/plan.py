"""Compute the size of a run from its config, data and encoder before it starts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cxml import extras, ray_cluster
from cxml.accelerators import device_of
from cxml.config import Config, HeadConfig
from cxml.data import (
    VALIDATION,
    DataManifest,
    ShardedDataset,
    StepFacts,
    StepRule,
    WindowRule,
    data_url,
    described_parts,
    num_held_out,
    parts_of_names,
    read_label_table,
    read_vocabulary,
    refuse_second_validation,
    resolve_encoder,
    step_facts,
    window_rule,
)
from cxml.evidence import num_lists
from cxml.formats import open_source, read_source
from cxml.launching import processes_per_machine
from cxml.model import TappedEncoder, activation_bytes, build_encoder, read_encoder_config
from cxml.optim import RowState
from cxml.parallel import (
    LevelKind,
    LevelTraffic,
    Plan,
    launches_of_step,
    local_world_size,
    make_plan,
    require_engine,
)
from cxml.prediction import require_precision
from cxml.preparation import is_prepared, load_tokenizer, tokenize
from cxml.report import require_baseline
from cxml.training import no_validation_texts, precision_here, require_trackers, splits_batches
from cxml.tree import fit_levels

_BYTES_OF_A_WEIGHT = 12  # value, node, and its share of a row's word and offset
_SAMPLE = 2000  # texts tokenised to estimate the lengths
_USUAL_SHORTLIST = 64  # see model.shortlist_sizes
_MOST_LENGTHS = 2_000_000  # of prepared texts, so that a plan takes seconds


@dataclass(frozen=True)
class DataFacts:
    """Sizes of a training.

    Attributes:
        num_texts: number of texts, including names used for training.
        num_labels: number of labels.
        lengths: int64 [n], the tokens of texts and of these names, or of a sample of both.
    """

    num_texts: int
    num_labels: int
    lengths: np.ndarray


def require_packages(config: Config) -> None:
    """Check before the first stage that all optional packages and the encoder of a training are installed.

    Raises:
        ConfigError: one is missing, with the `pip install` command; or a tracker is not writable.
    """
    resolve_encoder(config.model.encoder)
    require_engine(config.train.zero_stage, config.train.num_workers)
    engines = {
        "data.engine": config.data.engine, "tree.engine": config.tree.engine, "launch.launcher": config.launch.launcher
    }  # fmt: skip
    for field, engine in engines.items():
        if engine == "ray":
            ray_cluster.require_ray(field)
    if config.log.tensorboard:
        extras.require("log.tensorboard", True, "tensorboard", otherwise="set it to false")
    require_trackers(config)
    if config.tree.name_features == "tfidf":
        extras.require("tree.name_features", "tfidf", "sklearn")
    require_precision("evaluate.precision", config.evaluate.precision, device_of(0))
    if config.evaluate.baseline:
        require_baseline()


def require_validation(config: Config, *, prepares_again: bool = False) -> None:
    """Check that data and packages support evidence, the selection of epochs and held-out texts, if requested.

    Args:
        config: the run's config.
        prepares_again: whether the run prepares its data again in any case.

    Raises:
        ConfigError: the data have no validation texts, or they have a validation split and the config holds out a share
            too; or a package is not installed.
        DataError: `evidence.words` is on, but an earlier release prepared the data without a vocabulary.
    """
    wanted: dict[str, object] = {f"evidence.{name}": True for name in config.evidence.sources}
    if config.train.selects:
        wanted["train.keep"] = config.train.keep
    elif config.train.patience:  # with an open train.keep
        wanted["train.patience"] = config.train.patience
    if not wanted and not config.train.validation_fraction:
        return
    for name in config.evidence.sources:
        if name != "words":
            extras.require(f"evidence.{name}", True, "faiss", extra="neighbours", otherwise="set it to false")
    splits = splits_of(config, prepares_again=prepares_again)
    refuse_second_validation(splits, config.train.validation_fraction)
    is_open = "train.validation_fraction" in config.auto
    if not config.train.validation_fraction and VALIDATION not in splits and not is_open:
        raise no_validation_texts(*next(iter(wanted.items())))
    if config.evidence.words and not prepares_again and is_prepared(config):
        read_vocabulary(data_url(config))


def splits_of(config: Config, *, prepares_again: bool = False) -> Collection[str]:
    """Names of the splits of the prepared data; of the raw data if they are not prepared, or will be again."""
    has_data = not prepares_again and is_prepared(config)
    return DataManifest.read(data_url(config)).splits if has_data else open_source(config.data.source).splits


def evidence_bytes(config: Config) -> dict[str, int]:
    """Upper bound of each source's memory per predicting process; empty if the data are not prepared yet."""
    if not is_prepared(config):
        return {}
    sizes = {"words": words_bytes, "neighbours": neighbours_bytes, "names": names_bytes}
    return {name: sizes[name](config) for name in config.evidence.sources}


def words_bytes(config: Config) -> int:
    """Memory of the linear word model per predicting process, for prepared data.

    This is an upper bound: it assumes a separate weight of 12 bytes for each word of a text in every node above the
    text's labels. Shared and dropped weights reduce it to a third or less.
    """
    train = ShardedDataset(data_url(config), "train")
    levels = len(fit_levels(config, train.manifest.num_labels).tree.sizes) + 1
    return int((train.feature_counts * train.label_counts).sum()) * levels * _BYTES_OF_A_WEIGHT


def neighbours_bytes(config: Config) -> int:
    """Memory of the training texts and their labels per predicting process, for prepared data."""
    train = ShardedDataset(data_url(config), "train")
    return _bytes_of_vectors(config, len(train)) + 4 * int(train.label_counts.sum())


def names_bytes(config: Config) -> int:
    """Memory of the label names per predicting process, for prepared data."""
    return _bytes_of_vectors(config, DataManifest.read(data_url(config)).num_labels)


def _bytes_of_vectors(config: Config, count: int) -> int:
    config = fit_levels(config, DataManifest.read(data_url(config)).num_labels)
    with torch.device("meta"):
        encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model))
    width = encoder.feature_sizes[-1]
    return count * (2 * width + 8) + 8 + 4 * width * num_lists(count)


def plan_run(config: Config) -> tuple[Plan, DataFacts]:
    """The plan of a run's training, and the facts about its data.

    Raises:
        CxmlError: an error that would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    facts = _data_facts(config)
    return plan_for(config, facts), facts


def plan_for(config: Config, facts: DataFacts) -> Plan:
    """The plan of a training on data with these facts.

    Raises:
        CxmlError: an unknown encoder, or more clusters than labels.
    """
    config = precision_here(fit_levels(config, facts.num_labels))
    windows = window_rule(config)
    steps = step_facts(
        facts.lengths,
        StepRule(
            batch_size=config.train.batch_size,
            bucket_by_length=config.train.bucket_by_length,
            batch_tokens=config.train.batch_tokens,
            windows=windows,
        ),
        seed=config.seed,
        parts=config.train.num_workers * config.train.accumulation,
        num_texts=facts.num_texts,
        splits_batches=splits_batches(config, device_of(0)),
    )
    ranks_per_replica = _ranks_per_replica(config)
    with torch.device("meta"):
        encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model))
    sizes, widths = [*config.tree.sizes, facts.num_labels], encoder.feature_sizes
    sharded = _sharded_levels(config, sizes)
    parameters, trained = _count_weights(encoder, {i: size for i, size in enumerate(sizes) if i not in sharded})
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    return make_plan(
        parameters,
        trained,
        config.train,
        steps=steps,
        world_size=config.train.num_workers,
        sharded={_name(level, sizes): sizes[level] for level in sharded},
        row_state={_name(level, sizes): _bytes_of_a_row(config.head, widths[level]) for level in sharded},
        group_size=ranks_per_replica,
        traffic=[
            _traffic(config, level, sizes, width=widths[level], ranks=ranks_per_replica, texts=steps.texts)
            for level in sharded
        ],
        activations=activation_bytes(
            encoder, *_largest_micro_batch(config, steps, int(facts.lengths.max(initial=1)), windows), dtype,
            recomputes=config.train.activation_checkpointing,
        ),
        launches=planned_launches(config, facts.num_labels, ranks_per_replica),
    )  # fmt: skip


def _largest_micro_batch(
    config: Config, steps: StepFacts, longest: int, windows: WindowRule | None
) -> tuple[int, int]:  # fmt: skip
    """Number of texts or windows of a micro-batch of the longest texts, and their tokens."""
    parts = config.train.num_workers * config.train.accumulation
    rows, width = rows_of_text(longest, windows)
    if config.train.batch_tokens:
        most = rows * windows.size if windows is not None and rows > 1 else longest
        return rows * max(1, config.train.batch_tokens // (parts * most)), width
    return rows * steps.texts, width


def rows_of_text(length: int, windows: WindowRule | None) -> tuple[int, int]:
    """The number of rows in a batch for a text of `length` tokens, and the tokens of each row."""
    if windows is None:
        return 1, length
    lengths = np.array([length])
    return int(windows.counts(lengths)[0]), int(windows.widths(lengths)[0])


def planned_launches(config: Config, num_labels: int, ranks_per_replica: int) -> dict[str, int] | None:
    """Kernel launches of a step outside the encoder, by level; `tree.level_sizes` must be numbers."""
    sizes = [*config.tree.sizes, num_labels]
    sharded = _sharded_levels(config, sizes)
    scores_all = config.head.candidates == "all"
    kinds = [
        LevelKind(sharded=level in sharded, scores_all=scores_all and level == len(sizes) - 1)
        for level in range(len(sizes))
    ]
    return launches_of_step(kinds, config, ranks_per_replica)


def with_one_more(config: Config) -> Config:
    """The same run with one more process, or one more group of processes that share a replica of the label rows."""
    added = _ranks_per_replica(config) if config.head.group_size else 1
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, num_workers=config.train.num_workers + added)
    )


def _ranks_per_replica(config: Config) -> int:
    """Processes per replica of the label rows: `head.group_size`, or the processes of a machine."""
    if config.head.group_size != "node":
        return config.head.group_size or config.train.num_workers
    if "WORLD_SIZE" in os.environ:  # a launcher has started this process
        return local_world_size()
    return processes_per_machine(config)


def _data_facts(config: Config) -> DataFacts:
    """The facts from the prepared data if it exists, else from the raw texts."""
    if is_prepared(config):
        table, split = read_label_table(data_url(config)), ShardedDataset(data_url(config), "train")
        num_train, words, lengths = len(split), table.words, split.lengths[:_MOST_LENGTHS]
    else:
        raw = read_source(config.data.source)
        texts = raw.splits["train"].texts
        num_train, words = len(texts), raw.words
        lengths = tokenize(load_tokenizer(config)[0], texts[:_SAMPLE], config.data.max_length).lengths
    num_texts = num_train - num_held_out(num_train, config.train.validation_fraction)
    if config.train.name_texts:
        names = list(described_parts(parts_of_names(words.titles, config.train.name_texts), words).values())
        of_names = tokenize(load_tokenizer(config)[0], names[:_SAMPLE], config.data.max_length).lengths
        share = len(lengths) / num_train
        lengths = np.concatenate([lengths, np.resize(of_names, math.ceil(share * len(names)))])
        num_texts += len(names)
    return DataFacts(num_texts, len(words.titles), lengths)


def _sharded_levels(config: Config, sizes: Sequence[int]) -> list[int]:
    """The levels whose rows are sharded over the processes; `sizes` are the nodes of all levels, labels last."""
    if config.head.implementation != "rows":
        return []
    *clusters, _ = sizes
    return [*(i for i, size in enumerate(clusters) if size > config.head.shard_from), len(clusters)]


def _traffic(config: Config, level: int, sizes: Sequence[int], *, width: int, ranks: int, texts: int) -> LevelTraffic:
    """The traffic of a sharded level, assuming equal numbers of children."""
    above = sizes[level - 1] if level else sizes[0]
    scores_all = level == len(sizes) - 1 and config.head.candidates == "all"
    wanted = config.model.shortlist_sizes[level - 1] if level and config.model.shortlist_sizes else _USUAL_SHORTLIST
    selected = min(wanted, above) if level else above
    return LevelTraffic(
        ranks=ranks,
        texts=texts,
        parents=0 if scores_all else selected,
        width=width,
        feature_bytes=2 if config.train.precision == "bf16" else 4,
        rows_of_a_leaf=-(-sizes[level] // above),
    )


def _bytes_of_a_row(head: HeadConfig, width: int) -> dict[str, int]:
    return RowState.bytes_by_state(
        width, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
    )


def _count_weights(encoder: TappedEncoder, in_engine: Mapping[int, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Weights of each part in the engine, and the trained ones; `in_engine` has the nodes of its levels."""
    heads = {
        f"level {level} head ({size:,} nodes)": size * (encoder.feature_sizes[level] + 1)
        for level, size in in_engine.items()
    }
    return {"encoder": _count(encoder), **heads}, {"encoder": _count(encoder, learning=True), **heads}


def _name(level: int, sizes: Sequence[int]) -> str:
    return "labels" if level == len(sizes) - 1 else f"clusters of level {level}"


def _count(module: nn.Module, *, learning: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)
