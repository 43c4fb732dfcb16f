"""Export a trained model as one self-contained folder, which needs no run, data, Ray or DeepSpeed.

config.json               the run's config, and the encoder's architecture
model.safetensors         encoder and cluster levels
label_rows.safetensors    weight [L, D], bias [L], for fp8 and int8 scale [L]; in tree order, for memory-mapping
tree/                     the label tree
labels.arrow              label names, optional titles, optional label weights; row = label id
tokenizer.json            the encoder's tokenizer
evidence/                 sources beside the cascade, if the model has any
decisions.json            thresholds and calibration, if the model has any
README.md                 the model card
manifest.json             format, sizes and checksums; written last
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PretrainedConfig

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.checkpoint import load_weights, parse_tensors
from cxml.config import Config, config_to_dict, saved_config
from cxml.data.architecture import read_architecture
from cxml.data.pretrained import num_positions
from cxml.errors import ConfigError, DataError
from cxml.evidence import EVIDENCE, FOLDERS, read_evidence, write_evidence
from cxml.model import build_model, check_weights_fit
from cxml.parallel import Exchange, RowLayout, leaf_offsets_of
from cxml.prediction.card import model_card
from cxml.prediction.decisions import DECISIONS_FILE, Decisions, decisions_as_json, exported_decisions
from cxml.prediction.packed_rows import PackedRows, prediction_head, read_rows
from cxml.prediction.parts import Parts
from cxml.storage.locks import locked
from cxml.tree import LabelTree

_FORMAT, _VERSION = "cxml-export", 1
_CONFIG, _WEIGHTS, _ROWS = "config.json", "model.safetensors", "label_rows.safetensors"
_LABELS, _TOKENIZER, _CARD, _TREE = "labels.arrow", "tokenizer.json", "README.md", "tree"
_AGAIN = "Export the model again."


def is_exported(url: str) -> bool:
    """Whether `url` is a complete folder of `write_exported`."""
    return artefacts.format_of(url, _AGAIN) == _FORMAT


def write_exported(url: str, parts: Parts) -> None:
    """Write the folder `url`, replacing an earlier export.

    Args:
        url: path or fsspec URL of a new folder, or of an earlier export.
        parts: the model with all of its label rows, in the number format to write.

    Raises:
        DataError: `url` contains other files.
        InUseError: another command writes to it.
    """
    with locked(url):
        _write_exported(url, parts)


def _write_exported(url: str, parts: Parts) -> None:
    if storage.file_sizes(url) and not is_exported(url):
        raise DataError(url, "is a folder with other content", "Use a new folder.")
    storage.remove_finished(url, artefacts.MANIFEST, keep_lock=True)
    config = without_paths(parts.config)
    architecture = {**parts.model.encoder.transformer.config.to_dict(), "_name_or_path": config.model.encoder}
    settings = {
        "model_type": "cxml", "config": config_to_dict(config), "encoder": architecture, "pad_id": parts.pad_id,
        "facts": parts.facts,
    }  # fmt: skip
    storage.write_json(storage.join(url, _CONFIG), settings)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in parts.model.named_parameters()}
    _write_tensors(storage.join(url, _WEIGHTS), weights)
    _write_tensors(storage.join(url, _ROWS), _row_tensors(parts.rows))
    parts.tree.save(storage.join(url, _TREE), {})
    storage.write_atomic(storage.join(url, _LABELS), _labels_file(parts))
    storage.write_atomic(storage.join(url, _TOKENIZER), parts.tokenizer.to_str(pretty=False).encode())
    storage.write_atomic(storage.join(url, _CARD), model_card(parts, config).encode())
    if parts.evidence is not None:
        write_evidence(storage.join(url, EVIDENCE), parts.evidence, str(parts.facts["fingerprint"]))
    if parts.decisions.num_texts:
        storage.write_atomic(storage.join(url, DECISIONS_FILE), decisions_as_json(parts.decisions))
    artefacts.write_manifest(url, {"format": _FORMAT, "version": _VERSION, "files": artefacts.file_entries(url)})


def read_exported(url: str, exchange: Exchange, *, memory_map: bool = False, evidence: bool = True) -> Parts:
    """Load an exported folder.

    Args:
        url: the folder.
        exchange: the ranks that share the label rows; each loads its own rows.
        memory_map: memory-map the label rows instead of reading them.
        evidence: False loads only the cascade, without decisions that were chosen for all parts together.

    Raises:
        DataError: a file is missing, damaged or inconsistent with the others.
        ConfigError: the rows cannot be mapped, because the folder is remote or several ranks share them.
    """
    if memory_map and (exchange.size > 1 or storage.local_path(url) is None):
        raise ConfigError(
            "memory_map", True, "needs a local folder and a single process", "Copy the folder, or disable it."
        )
    files = _read_manifest(url)
    folder = next((name for name in FOLDERS if f"{name}/{artefacts.MANIFEST}" in files), None)
    of_evidence = {name for name in files if folder and name.startswith(f"{folder}/")}
    of_evidence.discard(f"{folder}/{artefacts.MANIFEST}")
    read_whole = {_WEIGHTS, _ROWS, _LABELS, _TOKENIZER, _CONFIG, DECISIONS_FILE, *of_evidence}
    for name in files.keys() - read_whole:
        artefacts.verify_file(url, files[name], _AGAIN)
    settings = _Settings.parse(artefacts.read_file(url, files[_CONFIG], _AGAIN), storage.join(url, _CONFIG))
    config, architecture = settings.config, settings.architecture
    tree = LabelTree.load(storage.join(url, _TREE))
    layout = RowLayout.round_robin(leaf_offsets_of(tree.offsets, tree.num_labels), exchange.rank, exchange.size)
    weights_file = storage.join(url, _WEIGHTS)
    weights = parse_tensors(artefacts.read_file(url, files[_WEIGHTS], _AGAIN), weights_file, _AGAIN)
    sizes = {name: tensor.numel() for name, tensor in weights.items()}
    check_weights_fit(config.model, tree, architecture, sizes=sizes, file=weights_file, remedy=_AGAIN)
    width = config.model.label_width(architecture.hidden_size)
    rows, mapped = read_rows(url, files[_ROWS], (tree.num_labels, width), _AGAIN)
    if not memory_map:
        rows = rows.take(layout.positions())
        if mapped is not None:
            mapped.check_unchanged()
            mapped = None
    scores_all = config.head.candidates == "all"
    model = build_model(
        config.model, tree, architecture, lambda _: ((), prediction_head(rows, layout, exchange, scores_all=scores_all))
    )
    positions = num_positions(model.encoder.transformer)
    if positions is not None and config.tokens_at_once > positions:
        field = "model.window" if config.model.window else "data.max_length"
        raise DataError(storage.join(url, _CONFIG), f"{field} exceeds the number of the encoder's positions", _AGAIN)
    load_weights(model, weights, weights_file, _AGAIN)
    labels = _read_labels(url, files[_LABELS], tree.num_labels)
    has_decisions = evidence or folder is None
    return Parts(
        model=model.eval(), tree=tree, layout=layout, rows=rows, names=labels.names, titles=labels.titles,
        label_weights=labels.weights,
        tokenizer=_read_tokenizer(url, files[_TOKENIZER]), pad_id=settings.pad_id, config=config,
        facts=settings.facts, mapped=mapped,
        evidence=read_evidence(storage.join(url, folder), tree, _AGAIN, width=width) if folder and evidence else None,
        decisions=exported_decisions(url, files, tree.num_labels, _AGAIN) if has_decisions else Decisions(),
    )  # fmt: skip


def _read_manifest(url: str) -> dict[str, FileEntry]:
    file = storage.join(url, artefacts.MANIFEST)
    try:
        manifest = artefacts.read_manifest(url, _AGAIN, format=_FORMAT, version=_VERSION)
    except FileNotFoundError as error:
        raise DataError(file, "is missing, so this folder contains no exported model", _AGAIN) from error
    files = artefacts.named_entries(manifest.get("files"), file, _AGAIN)
    for name in (_CONFIG, _WEIGHTS, _ROWS, _LABELS, _TOKENIZER, f"{_TREE}/{artefacts.MANIFEST}"):
        if name not in files:
            raise DataError(file, f"does not list {name}", _AGAIN)
    return files


@dataclass(frozen=True)
class _Settings:
    """The content of `config.json`."""

    config: Config
    architecture: PretrainedConfig
    pad_id: int
    facts: dict[str, object]

    @classmethod
    def parse(cls, content: bytes, file: str) -> _Settings:
        """Parse the file. Raises `DataError` if a value is missing or invalid."""
        values = artefacts.parse_object(content, file, _AGAIN)
        parts = [values.get(name) for name in ("config", "encoder", "facts")]
        if not all(isinstance(part, dict) for part in parts):
            raise DataError(file, "lacks config, encoder or facts", _AGAIN)
        try:
            config = saved_config(values["config"])
        except ConfigError as error:
            raise DataError(file, f"its config is invalid ({str(error)[:300]})", _AGAIN) from error
        architecture = read_architecture(values["encoder"], file, _AGAIN)
        pad_id = values.get("pad_id")
        if not isinstance(pad_id, int) or not 0 <= pad_id < architecture.vocab_size:
            raise DataError(file, f"pad_id {pad_id!r} is not a token of the encoder", _AGAIN)
        if not _are_facts(values["facts"]):
            raise DataError(file, "its facts do not have the right types", _AGAIN)
        return cls(config, architecture, pad_id, values["facts"])


def _are_facts(facts: dict[str, Any]) -> bool:
    metrics = facts.get("metrics", {})
    return (
        all(isinstance(facts.get(name, ""), str) for name in ("fingerprint", "tokenizer")) and "fingerprint" in facts
        and all(isinstance(facts.get(name, 0), int | float) for name in ("logit_adjustment", "propensity_ranking"))
        and isinstance(metrics, dict) and all(isinstance(value, int | float) for value in metrics.values())
    )  # fmt: skip


def without_paths(config: Config) -> Config:
    """The config without locations on the training machine."""
    path, labels_file = config.data.source.path, config.data.source.labels_file
    source = replace(
        config.data.source,
        path=posixpath.basename(path.rstrip("/")),
        labels_file=posixpath.basename(labels_file),
    )
    encoder = config.model.encoder
    is_folder = storage.local_path(encoder) is not None and Path(encoder).exists()
    return replace(
        config,
        output=posixpath.basename(config.output.rstrip("/")),
        data=replace(config.data, directory="", source=source),
        tree=replace(config.tree, directory=""),
        model=replace(config.model, start_from="", encoder=posixpath.basename(encoder) if is_folder else encoder),
        checkpoint=replace(config.checkpoint, url=""),
    )


def _row_tensors(rows: PackedRows) -> dict[str, Tensor]:
    weight, types = torch.from_numpy(rows.weight), {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    tensors = {"weight": weight.view(types.get(rows.format, weight.dtype))}
    tensors["bias"] = torch.from_numpy(rows.bias)
    return tensors | ({"scale": torch.from_numpy(rows.scale)} if rows.scale.size else {})


def _write_tensors(file: str, tensors: dict[str, Tensor]) -> None:
    """Write tensors; on a local disk without a second copy in memory."""
    path = storage.local_path(file)
    if path is None:
        storage.write_atomic(file, safetensors.torch.save(tensors))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path)


def _labels_file(parts: Parts) -> bytes:
    columns: dict[str, pa.Array] = {"name": pa.array(parts.names, pa.string())}
    if parts.titles is not None:
        columns["title"] = pa.array(parts.titles, pa.string())
    if parts.label_weights is not None:
        columns["weight"] = pa.array(parts.label_weights, pa.float32())
    return artefacts.arrow_file(pa.table(columns))


@dataclass(frozen=True)
class _Labels:
    """Names, titles and weights of the labels; None for no titles or no weights."""

    names: list[str]
    titles: list[str] | None
    weights: np.ndarray | None


def _read_labels(url: str, entry: FileEntry, num_labels: int) -> _Labels:
    file = storage.join(url, entry.file)
    more = (pa.field("title", pa.string()), pa.field("weight", pa.float32()))
    name = pa.field("name", pa.string())
    schemas = [pa.schema([name, *others]) for count in range(3) for others in combinations(more, count)]
    batches = artefacts.read_batches(artefacts.read_file(url, entry, _AGAIN), schemas, file, _AGAIN)
    table = pa.Table.from_batches(batches, batches[0].schema if batches else schemas[0])
    weights = artefacts.as_numpy(table.column("weight")) if "weight" in table.column_names else None
    if len(table) != num_labels:
        raise DataError(file, f"lists {len(table)} labels, but the tree has {num_labels}", _AGAIN)
    if weights is not None and not ((weights > 0) & (weights <= 1)).all():
        raise DataError(file, "a label's weight is not above 0 and at most 1", _AGAIN)
    titles = table.column("title").to_pylist() if "title" in table.column_names else None
    return _Labels(table.column("name").to_pylist(), titles, weights)


def _read_tokenizer(url: str, entry: FileEntry) -> Tokenizer:
    content = artefacts.read_file(url, entry, _AGAIN)
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises only this type
        raise DataError(storage.join(url, entry.file), f"is not a tokenizer ({str(error)[:200]})", _AGAIN) from error
