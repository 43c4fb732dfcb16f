"""Save a trained model as one folder, from all ranks together; `cxml.checkpoint.loading` loads it.

weights.safetensors                  encoder and cluster levels
labels-00000-00000.safetensors       label rows: positions int64 [R], weight [R, D], bias [R]; in any number of files
manifest.json                        its origin, sizes and checksums; written last
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.checkpoint.tensor_files import parse_tensors, require_finite
from cxml.config import Config, config_to_dict
from cxml.errors import DataError, DivergenceError
from cxml.model import CascadeXML
from cxml.model.heads import LABEL_BLOCK
from cxml.parallel import Ranks, ShardedLevel

_FORMAT, _VERSION = "cxml-model", 1
WEIGHTS_FILE = "weights.safetensors"
TRAIN_AGAIN = "Train again with --force train, or point to another model."


@dataclass(frozen=True, kw_only=True)
class ModelManifest:
    """The metadata of a saved model.

    Attributes:
        fingerprint: fingerprint of the model's inputs.
        tree: digest of the label tree.
        config: the run's settings, from `cxml.config.config_to_dict`.
        encoder: the encoder's architecture.
        weights: the file of the encoder and the cluster levels.
        labels: the files of the label rows.
    """

    format: str = _FORMAT
    version: int = _VERSION
    fingerprint: str
    tree: str
    config: dict[str, Any]
    encoder: dict[str, Any]
    weights: FileEntry
    labels: tuple[FileEntry, ...]

    def write(self, url: str) -> None:
        """Commit the model under `url`, after all of its files are written."""
        artefacts.write_manifest(url, dataclasses.asdict(self))


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
    """Write the model; a collective call. The manifest is written last, so a folder without one is incomplete.

    Args:
        url: folder to write; its content is replaced.
        model: the trained model.
        weights: on the first rank, all parameters of the engine, by name.
        ranks: the ranks of this process.
        config: the run's settings.
        fingerprint: fingerprint of the model's inputs.
        tree: digest of the label tree.

    Raises:
        DivergenceError: a weight is not finite. All ranks raise it before any file is written or replaced.
    """
    head = model.label_head
    _require_finite_everywhere(weights, head.export_rows() if isinstance(head, ShardedLevel) else ())
    if ranks.is_first:
        storage.remove_finished(url, artefacts.MANIFEST)
    dist.barrier()
    if isinstance(head, ShardedLevel):
        own_files = [
            _write(url, f"labels-{ranks.rank:05d}-{block:05d}.safetensors", rows)
            for block, rows in enumerate(head.export_rows())
        ]
    else:
        own_files = [_write(url, f"labels-{i:05d}.safetensors", rows) for i, rows in enumerate(_take_blocks(weights))]
    files: list[list[FileEntry]] = [[] for _ in range(ranks.world_size)]
    dist.all_gather_object(files, own_files)
    if ranks.is_first:
        ModelManifest(
            fingerprint=fingerprint, tree=tree, config=config_to_dict(config),
            encoder=model.encoder.transformer.config.to_dict(), weights=_write(url, WEIGHTS_FILE, weights),
            labels=tuple(file for part in files for file in part),
        ).write(url)  # fmt: skip
    dist.barrier()


def gathered_clusters(model: CascadeXML, ranks: Ranks) -> dict[str, Tensor]:
    """Gather weights and biases of the sharded cluster levels on the first rank, by parameter name.

    A collective call. A saved model stores these levels whole, like those of ordinary parameters.
    """
    found: dict[str, Tensor] = {}
    for level, rows in enumerate(model.cluster_levels, start=len(model.cluster_heads)):
        assert isinstance(rows, ShardedLevel), "the only kind"
        weight, bias = rows.gather_rows(ranks.is_first)
        if ranks.is_first:
            found |= {f"cluster_heads.{level}.weight": weight, f"cluster_heads.{level}.bias": bias}
    return found


def _require_finite_everywhere(weights: dict[str, Tensor], blocks: Iterable[dict[str, Tensor]]) -> None:
    """`require_finite` for the weights and label rows of all ranks. All raise the same error."""
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


def has_model(url: str) -> bool:
    """Whether the folder contains a finished model, whose manifest is written last."""
    return storage.exists(storage.join(url, artefacts.MANIFEST))


def read_model_manifest(url: str) -> ModelManifest:
    """The manifest of a saved model.

    Raises:
        DataError: the model at `url` is incomplete, or has another format.
    """
    file = storage.join(url, artefacts.MANIFEST)
    try:
        values = artefacts.read_manifest(url, TRAIN_AGAIN, format=_FORMAT, version=_VERSION)
    except FileNotFoundError as error:
        raise DataError(file, "is missing, so the model in this folder is incomplete", TRAIN_AGAIN) from error
    manifest = artefacts.parse_as(ModelManifest, values, file, TRAIN_AGAIN)
    for entry in (manifest.weights, *manifest.labels):
        if problem := artefacts.entry_problem(entry):
            raise DataError(file, problem, TRAIN_AGAIN)
    return manifest


def read_weights(url: str, manifest: ModelManifest) -> dict[str, Tensor]:
    """Encoder and cluster levels of a saved model, by parameter name, checked to be finite."""
    weights = _read(url, manifest.weights)
    if not weights:
        raise DataError(storage.join(url, manifest.weights.file), "contains no weights", TRAIN_AGAIN)
    return weights


def read_label_rows(url: str, manifest: ModelManifest) -> Iterator[dict[str, Tensor]]:
    """The label rows of a saved model, file by file: `positions` int64 [n], `weight` [n, D], `bias` [n].

    Raises:
        DataError: a file is missing or damaged, or has other content.
    """
    for entry in manifest.labels:
        rows = _read(url, entry)
        if not _are_rows(rows):
            raise DataError(storage.join(url, entry.file), "contains no label rows", TRAIN_AGAIN)
        yield rows


def _are_rows(rows: dict[str, Tensor]) -> bool:
    if rows.keys() != {"positions", "weight", "bias"}:
        return False
    positions, weight, bias = rows["positions"], rows["weight"], rows["bias"]
    has_shapes = positions.dim() == 1 and bias.shape == positions.shape and weight.shape[:-1] == positions.shape
    is_numbers = weight.is_floating_point() and bias.is_floating_point() and positions.dtype == torch.int64
    return has_shapes and is_numbers and not (positions < 0).any()


def mark_new(seen: Tensor, positions: Tensor) -> bool:
    """Mark label positions, int64 [n], in bool [L]. Returns False if one is out of range or already marked."""
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(seen):
        return False
    before = int(seen.sum())
    seen[positions] = True
    return int(seen.sum()) - before == len(positions)


def write_changed_model(
    url: str,
    manifest: ModelManifest,
    weights: dict[str, Tensor],
    rows: Iterable[dict[str, Tensor]],
    *,
    config: Config,
    fingerprint: str,
    tree: str,
) -> None:
    """Write a model made from the parts of another one, in one process.

    Args:
        url: folder to write; its content is replaced.
        manifest: manifest of the other model, for its architecture.
        weights: encoder and cluster levels by parameter name.
        rows: label rows in blocks: `positions` int64 [n], `weight` [n, D], `bias` [n].
        config: config of the model's run.
        fingerprint: fingerprint of the model's inputs.
        tree: digest of its label tree.
    """
    storage.remove_finished(url, artefacts.MANIFEST)
    labels = [_write(url, f"labels-00000-{i:05d}.safetensors", block) for i, block in enumerate(rows)]
    dataclasses.replace(
        manifest, fingerprint=fingerprint, tree=tree, config=config_to_dict(config),
        weights=_write(url, WEIGHTS_FILE, weights), labels=tuple(labels),
    ).write(url)  # fmt: skip


def _take_blocks(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Move the engine's label blocks out of `weights`, as rows with their positions."""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name in list(weights):
        if match := LABEL_BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), {})[match[2]] = weights.pop(name)
    start = 0
    for _, block in sorted(blocks.items()):
        block["positions"] = torch.arange(start, start + len(block["bias"]))
        start += len(block["bias"])
    return [block for _, block in sorted(blocks.items())]


def _write(url: str, file: str, tensors: dict[str, Tensor]) -> FileEntry:
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    storage.write_atomic(storage.join(url, file), content)
    return FileEntry(file, len(content), hashlib.sha256(content).hexdigest())


def _read(url: str, entry: FileEntry) -> dict[str, Tensor]:
    return parse_tensors(artefacts.read_file(url, entry, TRAIN_AGAIN), storage.join(url, entry.file), TRAIN_AGAIN)
