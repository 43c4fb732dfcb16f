"""Select the epoch whose weights become the model, on validation texts, never on the test split (docs/decisions/0029).

metrics of each evaluation -> Selection.after() -> the best epoch so far, saved with every checkpoint
                                                -> selection.json, once the epochs are over
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxml import artefacts, storage
from cxml.config import Config
from cxml.console import counted
from cxml.data import JoinedRows, RowSubset, ShardedDataset, all_labelled_texts, data_url, train_texts
from cxml.errors import DataError
from cxml.tree import tree_url

_REMEDY = "Train again with --force train."
_KINDS = {"epoch": int, "epochs": int, "metric": str, "value": float, "reason": str}  # see `read_selection`


@dataclass(frozen=True)
class Selection:
    """The best epoch so far.

    Attributes:
        epoch: its number, counted from 1; 0 if none was evaluated yet.
        step: completed optimiser steps at its end.
        value: its metric.
        wait_count: evaluations since then without an improvement.
    """

    epoch: int = 0
    step: int = 0
    value: float = 0.0
    wait_count: int = 0

    def after(self, epoch: int, step: int, value: float) -> Selection:
        """The selection after one more evaluation; ties keep the first epoch, which needs less training."""
        if not self.epoch or value > self.value:
            return Selection(epoch, step, value)
        return dataclasses.replace(self, wait_count=self.wait_count + 1)

    def should_stop(self, patience: int) -> bool:
        """Whether to stop training after `patience` evaluations without an improvement; 0 never stops."""
        return 0 < patience <= self.wait_count

    def state_dict(self) -> dict[str, float]:
        """State for a checkpoint; empty before the first evaluation."""
        if not self.epoch:
            return {}
        return {"epoch": self.epoch, "step": self.step, "value": self.value, "waited": self.wait_count}

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> Selection:
        """Restore the result of `state_dict`."""
        if not state:
            return cls()
        return cls(int(state["epoch"]), int(state["step"]), float(state["value"]), int(state["waited"]))


def selection_run(config: Config) -> Config:
    """The inner run that finds the best number of epochs for a run with `train.keep: refit`.

    It is a complete run without the final evaluation. Its model and word source have not seen the validation texts, so
    combination and thresholds are chosen with them.
    """
    checkpoints = config.checkpoint.url and storage.join(config.checkpoint.url, "selection")
    return dataclasses.replace(
        config,
        output=storage.join(config.output, "selection"),
        data=dataclasses.replace(config.data, directory=data_url(config)),
        tree=dataclasses.replace(config.tree, directory=tree_url(config)),
        train=dataclasses.replace(config.train, keep="best"),
        checkpoint=dataclasses.replace(config.checkpoint, url=checkpoints),
    )


def validated_run(config: Config) -> Config:
    """The run whose model is evaluated on the validation texts: this run, or the inner run of a final fit."""
    return selection_run(config) if config.train.keep == "refit" else config


def train_texts_of(config: Config) -> ShardedDataset | RowSubset | JoinedRows:
    """The texts that a run's model is trained on; for a final fit, all except the test split."""
    if config.train.keep == "refit":
        return all_labelled_texts(data_url(config))
    return train_texts(data_url(config), config.train.validation_fraction)


def selection_url(output: str) -> str:
    """The file with the selected epoch of the run in `output`."""
    return storage.join(output, "selection.json")


def write_selection(config: Config, found: Selection, *, last_epoch: int, num_texts: int, fingerprint: str) -> None:
    """Write the selected epoch and the reason, for the final fit and for readers.

    Args:
        config: config of the run with the validation texts.
        found: the selected epoch.
        last_epoch: last epoch of the training.
        num_texts: number of validation texts.
        fingerprint: fingerprint of the model's inputs.
    """
    metric = config.train.keep_by
    texts, epochs = counted(num_texts, "validation text"), counted(last_epoch, "epoch")
    reason = f"{metric} {found.value:.2f} on {texts}, the best of {epochs}"
    if last_epoch < config.train.epochs and found.should_stop(config.train.patience):
        reason += f"; training stopped after {counted(found.wait_count, 'evaluation')} without a better one"
    values = {
        "fingerprint": fingerprint, "epoch": found.epoch, "epochs": config.train.epochs, "metric": metric,
        "value": found.value, "reason": reason,
    }  # fmt: skip
    storage.write_json(selection_url(config.output), values)


def keep_selection(config: Config) -> dict[str, Any]:
    """The result of `read_selection`, also stored in the run's own output, so the model does not need `selection/`."""
    values, own = read_selection(config), selection_url(config.output)
    if not storage.exists(own) or artefacts.read_json(own, _REMEDY) != values:
        storage.write_json(own, values)
    return values


def read_selection(config: Config) -> dict[str, Any]:
    """Read the selected epoch: `epoch`, the number of `epochs` evaluated, `metric`, `value`, `reason`.

    Raises:
        DataError: it is missing or damaged.
    """
    url, own = (selection_url(output) for output in (validated_run(config).output, config.output))
    if not storage.exists(url) and storage.exists(own):
        url = own
    try:
        values = artefacts.read_json(url, _REMEDY)
    except FileNotFoundError as error:
        raise DataError(url, "is missing; it contains the selected epoch", _REMEDY) from error
    if not all(type(values.get(name)) is kind for name, kind in _KINDS.items()) or values["epoch"] < 1:
        raise DataError(url, f"does not contain {', '.join(_KINDS)} of a selection", _REMEDY)
    return values
