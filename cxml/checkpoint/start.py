"""Start a run from weights of another one: a whole model or checkpoint, or its encoder only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.checkpoint.manifest import COMMIT_FILE
from cxml.checkpoint.model_store import mark_new, read_label_rows, read_model_manifest, read_weights
from cxml.checkpoint.row_arrays import SavedLevel
from cxml.checkpoint.row_state import engine_rows, is_label_row, saved_rows, whole_level
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.training_state import tree_digest
from cxml.config import Config, ModelConfig, saved_config
from cxml.errors import DataError
from cxml.model import CascadeXML
from cxml.model.encoder import is_pretrained
from cxml.tree import LabelTree

_REMEDY = "Set model.start_from to a model of the same architecture, or leave it empty."


def load_start(config: ModelConfig, model: CascadeXML, tree: LabelTree) -> None:
    """Load a new model's weights from `config.start_from`, without optimiser state.

    Args:
        config: the source, and the parts to load.
        model: new model, not yet in an engine.
        tree: tree of the model.

    Raises:
        DataError: the model or checkpoint is missing, damaged or does not fit.
    """
    url = config.start_from
    source = _opened(url)
    takes_all = config.start_with == "all"
    if takes_all and source.tree() not in (None, tree_digest(tree)):
        raise DataError(url, "was trained on another label tree", "Set model.start_with to encoder.")
    wanted = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not is_label_row(name) and (takes_all or is_pretrained(name))
    }
    nodes = zip(tree.level_sizes[:-1], model.encoder.feature_sizes[:-1], strict=True)
    clusters = [SavedLevel.clusters(level, size, width) for level, (size, width) in enumerate(nodes)]
    found = source.weights(list(wanted), clusters if takes_all else [])
    with torch.no_grad():
        for name, parameter in wanted.items():
            values = found.get(name)
            if values is None or values.numel() != parameter.numel():
                raise DataError(url, f"has no {name} of shape {tuple(parameter.shape)}", _REMEDY)
            parameter.copy_(values.view(parameter.shape))
    if takes_all:
        for saved, level in zip(clusters[len(model.cluster_heads) :], model.cluster_levels, strict=True):
            weight, bias = (found.get(f"{saved.parameter}.{kind}") for kind in ("weight", "bias"))
            if weight is None or bias is None or len(bias) != saved.num_rows:
                raise DataError(url, f"has no {saved.num_rows} rows of {saved.parameter}", _REMEDY)
            level.import_rows(torch.arange(saved.num_rows), weight.view(saved.num_rows, -1), bias)
        _take_rows(source.rows(), model, url)


def require_start(url: str) -> None:
    """Raise `DataError` unless there is a model or a checkpoint at `url`; only its manifest is read."""
    model = storage.join(url, "model")
    if not storage.exists(storage.join(url, MANIFEST)) and storage.exists(storage.join(model, MANIFEST)):
        raise DataError(url, "is the output of a run", f"Set model.start_from to its model, {model}.")
    _opened(url)


def start_config(url: str) -> Config:
    """The config that the model or checkpoint at `url` was saved with; errors as in `require_start`."""
    return saved_config(_opened(url).config())


def _opened(url: str) -> _Checkpoint | _Model:
    return _Checkpoint(url) if storage.exists(storage.join(url, COMMIT_FILE)) else _Model(url)


def _take_rows(blocks: Iterator[tuple[Tensor, Tensor, Tensor]], model: CascadeXML, url: str) -> None:
    head = model.label_head
    width, seen = model.encoder.feature_sizes[-1], torch.zeros(model.level_sizes[-1], dtype=torch.bool)
    taken = 0
    for positions, weight, bias in blocks:
        if weight.shape != (len(positions), width) or not mark_new(seen, positions):
            raise DataError(url, "its label rows do not fit the labels of this run", _REMEDY)
        taken += head.import_rows(positions, weight, bias)
    expected = len(head.own_positions())
    if taken != expected:
        raise DataError(url, f"contains {taken} of the {expected} label rows of this run", _REMEDY)


class _Checkpoint:
    """Weights of a checkpoint."""

    def __init__(self, url: str) -> None:
        self._reader = ShardReader(url)

    def config(self) -> Mapping[str, Any]:
        return self._reader.manifest.run.config

    def tree(self) -> str | None:
        return self._reader.manifest.run.tree

    def weights(self, names: list[str], clusters: list[SavedLevel]) -> dict[str, Tensor]:
        held = self._reader.manifest.tensors
        wanted = {*names, *(f"{saved.parameter}.{kind}" for saved in clusters for kind in ("weight", "bias"))}
        found = {name: self._reader.tensor(f"model/{name}") for name in wanted if f"model/{name}" in held}
        for saved in clusters:
            if not saved.are_parameters(self._reader):
                weight, bias = whole_level(self._reader, saved)
                found |= {f"{saved.parameter}.weight": weight, f"{saved.parameter}.bias": bias}
        return found

    def rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        run = self._reader.manifest.run
        labels = SavedLevel.labels(run.num_labels, saved_config(run.config).model.label_width(run.width))
        if not labels.are_parameters(self._reader):
            for block in saved_rows(self._reader, labels, with_state=False):
                yield torch.from_numpy(block.positions), torch.from_numpy(block.weight), torch.from_numpy(block.bias)
            return
        yield from engine_rows(self._reader, labels)


class _Model:
    """Weights of a trained model."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._manifest = read_model_manifest(url)

    def config(self) -> Mapping[str, Any]:
        return self._manifest.config

    def tree(self) -> str | None:
        return self._manifest.tree

    def weights(self, names: list[str], clusters: list[SavedLevel]) -> dict[str, Tensor]:
        held = read_weights(self._url, self._manifest)
        wanted = {*names, *(f"{saved.parameter}.{kind}" for saved in clusters for kind in ("weight", "bias"))}
        return {name: held[name] for name in wanted if name in held}

    def rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in read_label_rows(self._url, self._manifest):
            yield rows["positions"], rows["weight"], rows["bias"]
