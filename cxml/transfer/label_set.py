"""Make a run over a changed label set from the trained model of another run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cxml.checkpoint import (
    ModelManifest,
    Relabelling,
    has_model,
    model_url,
    read_label_rows,
    read_model_manifest,
    read_weights,
    relabel_tree,
    tree_digest,
    write_changed_model,
)
from cxml.config import Config, plain_values, saved_config, with_values
from cxml.data import VALIDATION, ShardedDataset, data_url, read_label_table
from cxml.data.architecture import read_architecture
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.pipeline import model_fingerprints, splits_of
from cxml.preparation import is_prepared, prepare
from cxml.storage.locks import locked
from cxml.training import with_precision
from cxml.tree import LabelTree, features_of_labels, fit_levels, save_tree, tree_url


@dataclass(frozen=True)
class LabelChanges:
    """Numbers of kept, new and removed labels."""

    kept: int
    added: int
    removed: int


def relabel(config: Config, model: str) -> LabelChanges:
    """Write tree and model of `config`'s run, made from the trained model at the URL `model`.

    Raises:
        ConfigError: the number of levels or the bottleneck differs from the model; or the config requests results that
            only a training produces.
        StaleArtefactError: the run already has a model.
        DataError: the model or its tree is missing or damaged, or no label is kept.
        InUseError: another command writes to the run's output.
    """
    with locked(config.output), locked(tree_url(config)):
        return _relabel(config, model)


def _relabel(config: Config, model: str) -> LabelChanges:
    _require_no_training(config)
    manifest = read_model_manifest(model)
    old_config = saved_config(manifest.config)
    config = with_values(config, _open_values(config, old_config))
    _require_bottleneck(config, old_config.model.bottleneck)
    if config.tree.level_sizes != "auto":
        _require_levels(config, old_config.num_levels)
    if has_model(model_url(config)):
        raise StaleArtefactError(f"{model_url(config)} already contains a model. Use another output.")
    if not is_prepared(config):
        prepare(config)
    old_names, new_names = (read_label_table(data_url(each)).names for each in (old_config, config))
    config = fit_levels(config, len(new_names))
    if config.train.precision == "auto" and old_config.train.precision != "auto":
        config = with_precision(config, old_config.train.precision)
    _require_levels(config, old_config.num_levels)
    old_ids = _old_ids(old_names, new_names)
    kept = int((old_ids >= 0).sum())
    if not kept:
        raise DataError(data_url(config), "none of its label names occurs in the model", "Train a new model.")
    changed = _change_tree(config, LabelTree.load(tree_url(old_config)), old_ids)
    _change_model(config, changed, model, manifest)
    return LabelChanges(kept, len(new_names) - kept, len(old_names) - kept)


def _open_values(config: Config, old_config: Config) -> dict[str, Any]:
    """The values of the fields that `config` leaves open: those of the model, except where they need a training.

    A held-out share of the new texts contains texts that the model was trained on. Only a split of validation texts can
    weigh the sources of evidence.
    """
    values = plain_values(old_config, config.auto)
    untrained: dict[str, Any] = {"train.keep": "last", "train.validation_fraction": 0.0}
    if VALIDATION not in splits_of(config):
        untrained |= {f"evidence.{field.name}": False for field in fields(config.evidence)}
    return values | {name: value for name, value in untrained.items() if name in values}


def _require_no_training(config: Config) -> None:
    """Raise an error for settings that need a training, because the adapted model is not trained."""
    for field, value, otherwise in (
        ("train.keep", config.train.keep, "last"), ("train.budget", config.train.budget, "")
    ):  # fmt: skip
        if value != otherwise:
            problem = "needs a training, but the model is adapted without one"
            raise ConfigError(field, value, problem, f"Set it to {otherwise or 'nothing'} for this run.")


def _require_levels(config: Config, num_levels: int) -> None:
    if config.num_levels != num_levels:
        problem = f"the model has {num_levels - 1} cluster levels"
        raise ConfigError("tree.level_sizes", config.tree.level_sizes, problem, "Use the same number of levels.")


def _require_bottleneck(config: Config, width: int) -> None:
    if config.model.bottleneck != width:
        problem = f"the model's label rows were trained with {width}"
        raise ConfigError("model.bottleneck", config.model.bottleneck, problem, f"Set it to {width}.")


def _old_ids(old_names: list[str], new_names: list[str]) -> np.ndarray:
    """The old id of each label, -1 for a new one, int64 [L]."""
    id_of = {name: i for i, name in enumerate(old_names)}
    return np.array([id_of.get(name, -1) for name in new_names], np.int64)


def _change_tree(config: Config, old: LabelTree, old_ids: np.ndarray) -> Relabelling:
    dataset = ShardedDataset(data_url(config), "train")
    changed = relabel_tree(old, old_ids, features_of_labels(config, dataset))
    save_tree(config, changed.tree, dataset.manifest.fingerprint, seed=config.seed)
    return changed


def _change_model(config: Config, changed: Relabelling, model: str, manifest: ModelManifest) -> None:
    architecture = read_architecture(manifest.encoder, model, "Train the model again.")
    width = config.model.label_width(architecture.hidden_size)
    write_changed_model(
        model_url(config),
        manifest,
        changed.cluster_weights(read_weights(model, manifest)),
        changed.label_rows(read_label_rows(model, manifest), width),
        config=config,
        fingerprint=model_fingerprints(config)[config.train.precision],
        tree=tree_digest(changed.tree),
    )
