"""The settings of a run: the user's values, and values chosen from its data, its encoder and the machine.

A run chooses once and stores its choices in its output. A resumed training uses the stored values, also on another
machine or with a newer version.
"""

from __future__ import annotations

import logging

import numpy as np
from rich.console import Console

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.checkpoint import (
    checkpoints_url,
    has_model,
    list_checkpoints,
    model_url,
    read_checkpoint_manifest,
    read_model_manifest,
)
from cxml.config import Config, fingerprint_fields, plain_values, saved_config, with_values
from cxml.console import counted
from cxml.data import VALIDATION, DataManifest, Ragged, data_url
from cxml.formats import read_source
from cxml.preparation import is_prepared, load_tokenizer, tokenize, with_length
from cxml.settings import (
    MOST_TOKENS_ON_CPU,
    Choice,
    Facts,
    choices_table,
    choose,
    choose_by_length,
    facts_of,
    prepared_facts,
    read_budget,
    read_record,
    write_budget,
    write_record,
)
from cxml.training import selection_run
from cxml.tree import fit_levels

_log = logging.getLogger(__name__)

_LENGTH = "data.max_length"
_SAMPLE = 2000  # raw texts used before the preparation
_WIDTH = 140  # of the table in a log
_SECTIONS = ("tree", "model", "head", "optim", "train")


def resolve_config(config: Config, *, again: bool = False) -> Config:
    """The config without open fields of a run with prepared data. New choices are printed and stored.

    Args:
        config: the run's config.
        again: ignore stored choices.

    Raises:
        ConfigError: given values contradict each other or do not fit the data.
        DataError: the data set, or the record of an earlier start, is damaged.
    """
    if again and config.train.budget:
        write_budget(config.output, {})
    return _within_budget(config, _resolve(config, again=again))


def _resolve(config: Config, *, again: bool) -> Config:
    if not config.auto:
        return _fit_levels(config)
    fingerprint = settings_fingerprint(config)
    choices = None if again else read_record(config.output, fingerprint)
    if choices is not None:
        _log.info("Using the settings that were chosen at the first start (settings.json)")
        return _taking(config, choices)
    fitted, choices = _choose(config) if again else _choose_or_keep(config)
    write_record(config.output, fingerprint, fitted, choices)
    Console(stderr=True, width=_WIDTH).print(choices_table(choices))
    return fitted


def resolved(config: Config) -> Config:
    """`resolve_config` without printing or storing anything; unchanged if the data are not prepared."""
    if not storage.exists(storage.join(data_url(config), MANIFEST)):
        return config
    return _within_budget(config, _fitted(config)[0] if config.auto else _fit_levels(config))


def preview_settings(config: Config) -> tuple[Config, list[Choice]]:
    """Preview the choices of a run from its prepared or raw data. Writes nothing.

    Raises:
        CxmlError: whatever would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    if not config.auto:
        return config, []
    if is_prepared(config):
        return _fitted(config)
    with_known_length = with_length(config)
    return _choose_by(config, with_known_length, _raw_facts(with_known_length))


def adapt_to_steps(config: Config, fitted: Config, steps: int) -> list[Choice]:
    """The choices that change for a training of `steps` steps: its length, and the fields that depend on it.

    Args:
        config: the user's config.
        fitted: the config without open fields.
        steps: number of optimiser steps.
    """
    shorter = with_values(fitted, {"train.steps": steps})
    reason = f"fits the budget of {config.train.budget}"
    return [Choice("train.steps", steps, reason), *choose_by_length(shorter, prepared_facts(config), config.auto)]


def _within_budget(config: Config, fitted: Config) -> Config:
    """The config with the values of its plan for a time budget, if any."""
    if not config.train.budget:
        return fitted
    kept = read_budget(config.output)
    if kept.get("fingerprint") != settings_fingerprint(config):
        return fitted
    return with_values(fitted, kept["values"])


def _fitted(config: Config) -> tuple[Config, list[Choice]]:
    """The config and the choices of the run, stored or new."""
    choices = read_record(config.output, settings_fingerprint(config))
    return (_taking(config, choices), choices) if choices is not None else _choose_or_keep(config)


def _choose_or_keep(config: Config) -> tuple[Config, list[Choice]]:
    """Choose from the prepared data, but keep the values of an existing model or checkpoint without a record.

    A run that makes a final fit has begun with the run that selects its epoch.
    """
    trained = _trained_config(config)
    if trained is None:
        fitted, choices = _choose(config)
        trained = _trained_config(selection_run(fitted)) if fitted.train.keep == "refit" else None
        if trained is None:
            return fitted, choices
        trained = with_values(trained, {"train.keep": "refit"})
    values = plain_values(trained, config.auto)
    choices = [Choice(name, value, "the value that the run was trained with") for name, value in values.items()]
    return _taking(config, choices), choices


def _choose(config: Config) -> tuple[Config, list[Choice]]:
    return _choose_by(config, with_length(config), prepared_facts(config))


def _choose_by(config: Config, with_known_length: Config, facts: Facts) -> tuple[Config, list[Choice]]:
    fitted, choices = choose(with_known_length, facts)
    if _LENGTH not in config.auto:
        return fitted, choices
    length = with_known_length.data.max_length
    reason = f"99 % of the texts have at most {facts.long_length} tokens, within what the encoder reads"
    if length == facts.long_length == MOST_TOKENS_ON_CPU and fitted.evidence.words:
        reason = f"a CPU encodes the first {length} tokens, and evidence.words reads whole texts"
    return fitted, [Choice(_LENGTH, length, reason), *choices]


def _taking(config: Config, choices: list[Choice]) -> Config:
    return with_values(config, {choice.name: choice.value for choice in choices})


def _fit_levels(config: Config) -> Config:
    """The config with numbers for the level sizes of its tree, from the number of labels."""
    num_labels = DataManifest.read(data_url(config)).num_labels
    fitted = fit_levels(config, num_labels)
    if fitted != config:
        _log.info("tree.level_sizes is auto: %s for %s", list(fitted.tree.sizes), counted(num_labels, "label"))
    return fitted


def settings_fingerprint(config: Config) -> str:
    """Hash of the inputs of choices besides the machine: the data, and the user's values."""
    data = DataManifest.read(data_url(config)).fingerprint
    return storage.fingerprint(
        "settings", data, [fingerprint_fields(config, name) for name in _SECTIONS], sorted(config.auto)
    )


def _trained_config(config: Config) -> Config | None:
    """The config of the run's model or newest checkpoint; None if there is neither."""
    if has_model(model_url(config)):
        return saved_config(read_model_manifest(model_url(config)).config)
    entries = list_checkpoints(checkpoints_url(config))
    if not entries:
        return None
    newest = max(entries, key=lambda entry: entry.step)
    return saved_config(read_checkpoint_manifest(newest.url).run.config)


def _raw_facts(config: Config) -> Facts:
    """The facts of raw data, with lengths and names from the first texts."""
    raw = read_source(config.data.source, config.data.on_error)
    split = raw.splits["train"]
    texts, labels = split.texts[:_SAMPLE], split.labels[:_SAMPLE]
    tokenizer, _ = load_tokenizer(config)
    return facts_of(
        config, num_texts=len(split.texts),
        num_validation=len(raw.splits[VALIDATION].texts) if VALIDATION in raw.splits else 0,
        words_per_text=float(np.mean([len(set(text.split())) for text in texts])),
        lengths=tokenize(tokenizer, texts, config.data.max_length).lengths,
        frequency=np.bincount(split.labels.indices, minlength=len(raw.label_names)), names=raw.words.titles,
        texts=texts, labels=Ragged(labels.indices, labels.indptr),
    )  # fmt: skip
