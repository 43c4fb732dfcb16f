"""Checks before the first stage of a run and before its tree, for settings that cannot result in a model.

config -> check_run() -> prepared data -> check_run_on_data() -> tree, training
"""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import torch

from cxml.checkpoint import checkpoints_url, has_model, list_checkpoints, model_url, require_start, start_config
from cxml.config import Config
from cxml.data import (
    VALIDATION,
    DataManifest,
    StepRule,
    data_url,
    read_label_table,
    require_parts,
    require_parts_of_names,
    train_texts,
    window_rule,
)
from cxml.data.pretrained import load_pretrained_tokenizer
from cxml.model import build_encoder, check_features, check_tokens, layers_of, read_encoder_config
from cxml.parallel import require_even_groups
from cxml.pipeline.plan import require_packages, require_validation
from cxml.prediction import encoder_in
from cxml.preparation import refuse_too_long

_log = logging.getLogger(__name__)

_PROBED = 16  # tokens, if the length is open


def check_run(config: Config, *, prepares_again: bool = False) -> None:
    """Check that packages, encoder, validation texts and initial weights of a run exist and match its settings.

    Unless the run has begun, it loads the encoder and runs it on a few tokens.

    Args:
        config: the run's config, which may have open fields.
        prepares_again: whether the run prepares its data again in any case.

    Raises:
        ConfigError: a setting is invalid; names the field, its value, and the remedy.
        DataError: `model.start_from` contains no model, or see `require_validation`.
    """
    require_packages(config)
    require_validation(config, prepares_again=prepares_again)
    _require_layers(config)
    if prepares_again or not _has_begun(config):
        _require_sound_encoder(config)
    if config.head.group_size != "node":
        require_even_groups(config.head.group_size, config.train.num_workers)
    if config.model.start_from and not _has_begun(config):
        require_start(config.model.start_from)


def check_run_on_data(config: Config) -> None:
    """Check the settings against the prepared data, before a tree is built. Warns of validation texts that are known.

    Args:
        config: the run's config, without open fields.

    Raises:
        ConfigError: no label name matches `train.name_texts`, the validation share contains all or none of the train
            texts, or a step has too few texts for all micro-batches.
    """
    train = config.train
    if config.model.start_from and not _has_begun(config):
        _warn_of_known_texts(config, start_config(config.model.start_from))
    lengths = train_texts(data_url(config), train.validation_fraction).lengths
    if train.name_texts:
        names = require_parts_of_names(read_label_table(data_url(config)).words.titles, train.name_texts)
        lengths = np.append(lengths, np.ones(len(names), np.int64))
    if train.name_texts and train.batch_tokens:
        return  # the number of steps depends on the tokens of the names, which training counts
    rule = StepRule(
        batch_size=train.batch_size, bucket_by_length=train.bucket_by_length, batch_tokens=train.batch_tokens,
        windows=window_rule(config),
    )  # fmt: skip
    require_parts(lengths, rule, world_size=train.num_workers, accumulation=train.accumulation)


def _warn_of_known_texts(config: Config, start: Config) -> None:
    """Warn if the model that a run starts from was trained on the run's validation texts, and so knows their labels."""
    held_out = config.train.validation_fraction
    is_split = not held_out and VALIDATION in DataManifest.read(data_url(config)).splits
    if start.data.source != config.data.source or not (held_out or is_split):
        return
    if start.train.keep == "refit" or (held_out and start.train.validation_fraction != held_out):
        other = " Its run has a model without these texts: selection/model." if start.train.keep == "refit" else ""
        _log.warning(
            "%s was also trained on the validation texts of this run, so thresholds, epochs and evidence are chosen on "
            "texts that the model knows.%s", config.model.start_from, other,
        )  # fmt: skip


def _require_layers(config: Config) -> None:
    """Build the encoder on the meta device if the config sets layers, windows or a width, to check that they fit it."""
    model = config.model
    if not (model.taps or model.freeze_layers or model.bottleneck or model.window):
        return
    with torch.device("meta"):
        build_encoder(model, max(1, len(model.taps)), read_encoder_config(model))
    if model.window:
        window_rule(config)


def _require_sound_encoder(config: Config) -> None:
    """Load the encoder and run it on a few tokens, see `check_features`; also in int8 if the run predicts in it."""
    model, is_open = config.model, "data.max_length" in config.auto
    tokenizer = load_pretrained_tokenizer(model.encoder, trust_remote_code=model.trust_remote_code)
    check_tokens(model, tokenizer, read_encoder_config(model).vocab_size)
    if not is_open:
        refuse_too_long(config)
    encoder = build_encoder(model, max(1, len(model.taps)))
    length = model.window or _PROBED if is_open else config.tokens_at_once
    check_features(model, encoder, length, cast(int, tokenizer.pad_token_id), pools="model.pooling" not in config.auto)
    if config.evaluate.precision == "int8":
        encoder_in(encoder, "int8", torch.device("cpu"))
    if config.train.compile:
        layers_of(encoder.transformer, "train.compile", True, "Set it to false.")
    elif config.train.activation_checkpointing:
        encoder.recompute_activations()


def _has_begun(config: Config) -> bool:
    """Whether the run has a model or a checkpoint, so that it does not use `model.start_from`."""
    return has_model(model_url(config)) or bool(list_checkpoints(checkpoints_url(config)))
