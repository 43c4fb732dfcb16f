"""Save a trained model as one folder, by all ranks together, and build it again from there on any number of ranks.

weights.safetensors                  encoder and cluster levels
labels-00000-00000.safetensors       label rows: positions int64 [R], weight [R, D], bias [R]; files in any cut
manifest.json                        what made it, sizes and checksums; written last
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoConfig

from cxml import storage
from cxml.checkpoint.finite import require_finite
from cxml.config import Config, config_from_dict, config_to_dict
from cxml.errors import DataError, DivergenceError
from cxml.model import CascadeXML, build_model
from cxml.parallel import Exchange, Ranks, RowsHead, rows_head
from cxml.tree import LabelTree

_FORMAT, _VERSION = "cxml-model", 1
_MANIFEST, _WEIGHTS = "manifest.json", "weights.safetensors"
_TRAIN_AGAIN = "Train again with --force train, or point to another model."
_BLOCK = re.compile(r"label_head\.blocks\.(\d+)\.(weight|bias)")


def model_url(config: Config) -> str:
    """Folder of the trained model inside the run's output."""
    return storage.join(config.output, "model")


def save_model(
    url: str,
    model: CascadeXML,
    weights: dict[str, Tensor],
    ranks: Ranks,
    *,
    config: Config,
    fingerprint: str,
    tree: str,
) -> None:
    """Write the model; a collective call. The manifest comes last, so a folder without one is no model.

    Args:
        url: folder to write; what it held is replaced.
        model: the trained model.
        weights: on the first rank, every parameter that the engine holds, by its name.
        ranks: this process's place.
        config: the run's settings.
        fingerprint: of what the model was made from.
        tree: digest of the label tree.

    Raises:
        DivergenceError: a weight is not finite; on all ranks alike, before anything is written or replaced.
    """
    head = model.label_head
    _require_finite_everywhere(weights, head.export_rows() if isinstance(head, RowsHead) else ())
    if ranks.is_first:
        storage.remove_finished(url, _MANIFEST)
    dist.barrier()
    if isinstance(head, RowsHead):
        own_files = [
            _write(url, f"labels-{ranks.rank:05d}-{block:05d}.safetensors", rows)
            for block, rows in enumerate(head.export_rows())
        ]
    else:
        own_files = [_write(url, f"labels-{i:05d}.safetensors", rows) for i, rows in enumerate(_take_blocks(weights))]
    files: list[list[dict[str, Any]]] = [[] for _ in range(ranks.world_size)]
    dist.all_gather_object(files, own_files)
    if ranks.is_first:
        manifest = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": fingerprint,
            "tree": tree,
            "config": config_to_dict(config),
            "encoder": model.encoder.transformer.config.to_dict(),
            "weights": _write(url, _WEIGHTS, weights),
            "labels": [file for part in files for file in part],
        }
        storage.write_json(storage.join(url, _MANIFEST), manifest)
    dist.barrier()


def _require_finite_everywhere(weights: dict[str, Tensor], blocks: Iterable[dict[str, Tensor]]) -> None:
    """`require_finite` for the weights and label rows of all ranks; each raises the first rank's error."""
    error = None
    try:
        require_finite(weights.items())
        for block in blocks:
            require_finite((f"label rows, {name}", block[name]) for name in ("weight", "bias"))
    except DivergenceError as own:
        error = own
    errors: list[DivergenceError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    for each in errors:
        if each is not None:
            raise each


def load_model(url: str, tree: LabelTree, exchange: Exchange) -> CascadeXML:
    """Build a saved model over the tree that it was trained with, on the CPU, in evaluation mode.

    Args:
        url: folder that `save_model` wrote.
        tree: the tree of its training.
        exchange: the ranks that share the label rows; each keeps its own.

    Raises:
        DataError: there is no whole model at `url`, or it is damaged or belongs to another tree.
    """
    manifest = read_model_manifest(url)
    config = config_from_dict(manifest["config"])
    weights = read_weights(url, manifest)
    architecture = AutoConfig.for_model(**manifest["encoder"])
    make_head = rows_head(tree, exchange, config, trains=False)
    model = build_model(config.model, tree, architecture, make_head)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise DataError(url, f"weights do not fit the model and its tree, first {differing[0]}", _TRAIN_AGAIN)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)  # buffers come from the tree
    _load_rows(url, manifest["labels"], model)
    return model.eval()


def read_model_manifest(url: str) -> dict[str, Any]:
    """What a saved model says about itself.

    Raises:
        DataError: there is no whole model at `url`, or none of this format.
    """
    manifest_url = storage.join(url, _MANIFEST)
    if not storage.exists(manifest_url):
        raise DataError(manifest_url, "there is no finished model", _TRAIN_AGAIN)
    manifest = storage.read_json(manifest_url, _TRAIN_AGAIN)
    if (manifest.get("format"), manifest.get("version")) != (_FORMAT, _VERSION):
        raise DataError(manifest_url, f"is not a {_FORMAT} of version {_VERSION}", _TRAIN_AGAIN)
    return manifest


def read_weights(url: str, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Encoder and cluster levels of a saved model, by parameter name."""
    return _read(url, manifest["weights"])


def read_label_rows(url: str, manifest: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
    """The label rows of a saved model, file by file: `positions`, `weight`, `bias`."""
    for facts in manifest["labels"]:
        yield _read(url, facts)


def write_changed_model(
    url: str,
    manifest: dict[str, Any],
    weights: dict[str, Tensor],
    rows: Iterable[dict[str, Tensor]],
    *,
    config: Config,
    fingerprint: str,
    tree: str,
) -> None:
    """Write a model that was made from another one's parts, in one process.

    Args:
        url: folder to write; what it held is replaced.
        manifest: of the other model, for its architecture.
        weights: encoder and cluster levels by parameter name.
        rows: label rows in blocks: `positions` int64 [n], `weight` [n, D], `bias` [n].
        config: of the run that the model belongs to.
        fingerprint: of what it was made from.
        tree: digest of its label tree.
    """
    storage.remove_finished(url, _MANIFEST)
    labels = [_write(url, f"labels-00000-{i:05d}.safetensors", block) for i, block in enumerate(rows)]
    facts = {"fingerprint": fingerprint, "tree": tree, "config": config_to_dict(config), "labels": labels}
    written = {**manifest, **facts, "weights": _write(url, _WEIGHTS, weights)}
    storage.write_json(storage.join(url, _MANIFEST), written)


def _load_rows(url: str, files: list[dict[str, Any]], model: CascadeXML) -> None:
    head = model.label_head
    assert isinstance(head, RowsHead), "built so by load_model"
    taken = 0
    for facts in files:
        rows = _read(url, facts)
        fits = rows["weight"].shape == (len(rows["positions"]), model.encoder.hidden_size)
        if not fits or ((rows["positions"] < 0) | (rows["positions"] >= head.layout.num_labels)).any():
            raise DataError(storage.join(url, facts["file"]), "rows do not fit the tree's labels", _TRAIN_AGAIN)
        taken += head.import_rows(rows["positions"], rows["weight"], rows["bias"])
    if taken != head.layout.num_rows:
        raise DataError(url, f"holds {taken} of the {head.layout.num_rows} label rows wanted here", _TRAIN_AGAIN)


def _take_blocks(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Move the engine's label blocks out of `weights`, as rows with their positions."""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name in list(weights):
        if match := _BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), {})[match[2]] = weights.pop(name)
    start = 0
    for _, block in sorted(blocks.items()):
        block["positions"] = torch.arange(start, start + len(block["bias"]))
        start += len(block["bias"])
    return [block for _, block in sorted(blocks.items())]


def _write(url: str, file: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    storage.write_atomic(storage.join(url, file), content)
    return {"file": file, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(url: str, facts: dict[str, Any]) -> dict[str, Tensor]:
    name = facts["file"]
    if "/" in name or "\\" in name:
        raise DataError(url, f"the manifest names {name!r}, which is no file of this folder", _TRAIN_AGAIN)
    file = storage.join(url, name)
    try:
        content = storage.read_bytes(file)
    except FileNotFoundError as error:
        raise DataError(file, "is named in the manifest but missing", _TRAIN_AGAIN) from error
    if len(content) != facts["bytes"] or hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise DataError(file, "is damaged: its size or checksum is not the manifest's", _TRAIN_AGAIN)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DataError(file, f"is no safetensors file ({error})", _TRAIN_AGAIN) from error
