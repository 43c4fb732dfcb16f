"""What a run is refused for before its first stage begins, and before its tree: settings that cannot end in a model.

config -> check_run() -> prepared data -> check_run_on_data() -> tree, training
"""

from __future__ import annotations

import numpy as np
import torch

from cxml.checkpoint import checkpoints_url, list_checkpoints, model_url, require_start
from cxml.config import Config
from cxml.data import (
    StepRule,
    data_url,
    read_labels,
    require_parts,
    require_parts_of_names,
    train_texts,
    window_rule,
)
from cxml.model import build_encoder, read_encoder_config
from cxml.parallel import require_even_groups
from cxml.pipeline.plan import require_packages, require_validation
from cxml.storage import exists, join


def check_run(config: Config, *, prepares_again: bool = False) -> None:
    """Refuse a run whose packages, encoder, validation texts or start are missing, or contradict its settings.

    Args:
        config: of the run, perhaps with open fields.
        prepares_again: whether the run prepares its data anew, whatever is there.

    Raises:
        ConfigError: a field, its value, and the remedy.
        DataError: `model.start_from` holds no model, or `require_validation` says so.
    """
    require_packages(config)
    require_validation(config, prepares_again=prepares_again)
    _require_layers(config)
    if config.head.group_size != "node":
        require_even_groups(config.head.group_size, config.train.num_workers)
    if config.model.start_from and not _has_begun(config):
        require_start(config.model.start_from)


def check_run_on_data(config: Config) -> None:
    """Refuse what only shows on the prepared data, before a tree is built from them.

    Args:
        config: of the run, without open fields.

    Raises:
        ConfigError: no label name has the part that `train.name_texts` takes, a share of the train texts leaves none,
            or a step has too few texts for all micro-batches.
    """
    train = config.train
    lengths = train_texts(data_url(config), train.validation_fraction).lengths
    if train.name_texts:
        names = require_parts_of_names(read_labels(data_url(config))[0], train.name_texts)
        lengths = np.append(lengths, np.ones(len(names), np.int64))
    if train.name_texts and train.batch_tokens:
        return  # the steps depend on the tokens of the names, which training counts
    rule = StepRule(
        batch_size=train.batch_size, bucket_by_length=train.bucket_by_length, batch_tokens=train.batch_tokens,
        windows=window_rule(config),
    )  # fmt: skip
    require_parts(lengths, rule, world_size=train.num_workers, accumulation=train.accumulation)


def _require_layers(config: Config) -> None:
    """Build the encoder without memory, where the config names layers, windows or a width that it may not have."""
    model = config.model
    if not (model.taps or model.freeze_layers or model.bottleneck or model.window):
        return
    with torch.device("meta"):
        build_encoder(model, max(1, len(model.taps)), read_encoder_config(model))
    if model.window:
        window_rule(config)


def _has_begun(config: Config) -> bool:
    """Whether the run has a model or a checkpoint, and so needs no other one to start from."""
    return exists(join(model_url(config), "manifest.json")) or bool(list_checkpoints(checkpoints_url(config)))
