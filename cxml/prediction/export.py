"""A trained model as one folder that needs nothing else: no run, no data, no Ray, no DeepSpeed.

config.json               the run's config, and the encoder's architecture
model.safetensors         encoder and cluster levels
label_rows.safetensors    weight [L, D], bias [L], for int8 scale [L]; rows in tree order, so that it can be mapped
tree/                     the label tree
labels.arrow              label names and, where labels are weighed, their weights; row = label id
tokenizer.json            the encoder's tokenizer
README.md                 the model card
manifest.json             format, sizes and checksums; written last
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig

from cxml import storage
from cxml.config import Config, config_from_dict, config_to_dict
from cxml.errors import ConfigError, DataError
from cxml.model import build_model
from cxml.parallel import Exchange, RowLayout, leaf_offsets_of
from cxml.prediction.card import model_card
from cxml.prediction.mapped_tensors import read_tensors
from cxml.prediction.packed_rows import PackedRows, prediction_head
from cxml.prediction.parts import Parts
from cxml.storage.locks import locked
from cxml.tree import LabelTree

_FORMAT, _VERSION = "cxml-export", 1
_MANIFEST, _CONFIG, _WEIGHTS, _ROWS = "manifest.json", "config.json", "model.safetensors", "label_rows.safetensors"
_LABELS, _TOKENIZER, _CARD, _TREE = "labels.arrow", "tokenizer.json", "README.md", "tree"
_AGAIN = "Export the model again."


def is_exported(url: str) -> bool:
    """Whether `url` is a folder that `write_exported` finished."""
    file = storage.join(url, _MANIFEST)
    return storage.exists(file) and storage.read_json(file, _AGAIN).get("format") == _FORMAT


def write_exported(url: str, parts: Parts) -> None:
    """Write the folder `url`; what an earlier export left there is replaced.

    Args:
        url: path or fsspec URL of a folder that is new, or an export.
        parts: the model, all of its label rows, in the number format to write.

    Raises:
        DataError: something else lies at `url`.
        InUseError: another command writes to it.
    """
    with locked(url):
        _write_exported(url, parts)


def _write_exported(url: str, parts: Parts) -> None:
    if storage.file_sizes(url) and not is_exported(url):
        raise DataError(url, "is a folder that holds something else", "Name a new folder.")
    storage.remove_finished(url, _MANIFEST, keep_lock=True)
    config = _without_places(parts.config)
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
    files = {
        name: {"bytes": size, "sha256": storage.sha256(storage.join(url, name))}
        for name, size in storage.file_sizes(url).items()
    }
    storage.write_json(storage.join(url, _MANIFEST), {"format": _FORMAT, "version": _VERSION, "files": files})


def read_exported(url: str, exchange: Exchange, *, memory_map: bool = False) -> Parts:
    """Load an exported folder.

    Args:
        url: the folder.
        exchange: the ranks that share the label rows; each keeps its own.
        memory_map: map the label rows into memory instead of reading them. Their checksum is then not checked.

    Raises:
        DataError: a file is missing or damaged.
        ConfigError: the rows cannot be mapped: the folder is remote, or several ranks share them.
    """
    if memory_map and (exchange.size > 1 or storage.local_path(url) is None):
        raise ConfigError(
            "memory_map", True, "maps a local folder for one process", "Copy the folder, or leave it out."
        )
    manifest = storage.read_json(storage.join(url, _MANIFEST), _AGAIN)
    if (manifest.get("format"), manifest.get("version")) != (_FORMAT, _VERSION):
        raise DataError(storage.join(url, _MANIFEST), f"is no {_FORMAT} of version {_VERSION}", _AGAIN)
    for name, facts in manifest["files"].items():
        _check(storage.join(url, name), facts, only_size=memory_map and name == _ROWS)
    settings = storage.read_json(storage.join(url, _CONFIG), _AGAIN)
    config = config_from_dict(settings["config"])
    tree = LabelTree.load(storage.join(url, _TREE))
    layout = RowLayout.deal(leaf_offsets_of(tree.offsets, tree.num_labels), exchange.rank, exchange.size)
    rows = _read_rows(storage.join(url, _ROWS))
    if len(rows.bias) != tree.num_labels:
        raise DataError(storage.join(url, _ROWS), f"holds {len(rows.bias)} rows, not {tree.num_labels}", _AGAIN)
    if not memory_map:
        rows = rows.take(layout.positions())
    scores_all = config.head.candidates == "all"
    model = build_model(
        config.model, tree, AutoConfig.for_model(**settings["encoder"]),
        lambda _: prediction_head(rows, layout, exchange, scores_all=scores_all),
    )  # fmt: skip
    weights = safetensors.torch.load(storage.read_bytes(storage.join(url, _WEIGHTS)))
    model.to(next(iter(weights.values())).dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise DataError(
            storage.join(url, _WEIGHTS), f"does not fit the model, first {(missing + unexpected)[0]}", _AGAIN
        )
    names, label_weights = _read_labels(storage.join(url, _LABELS))
    return Parts(
        model=model.eval(), tree=tree, layout=layout, rows=rows, names=names, label_weights=label_weights,
        tokenizer=Tokenizer.from_str(storage.read_bytes(storage.join(url, _TOKENIZER)).decode()),
        pad_id=settings["pad_id"], config=config, facts=settings["facts"],
    )  # fmt: skip


def _without_places(config: Config) -> Config:
    """The config without the places of the machine that trained it."""
    source = replace(config.data.source, path=posixpath.basename(config.data.source.path.rstrip("/")))
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
    weight = torch.from_numpy(rows.weight)
    tensors = {"weight": weight.view(torch.bfloat16) if rows.format == "bf16" else weight}
    tensors["bias"] = torch.from_numpy(rows.bias)
    return tensors | ({"scale": torch.from_numpy(rows.scale)} if rows.format == "int8" else {})


def _read_rows(file: str) -> PackedRows:
    found = read_tensors(file, _AGAIN)
    scale = found.get("scale", np.zeros(0, np.float32))
    return PackedRows(found["weight"], np.array(scale), np.array(found["bias"]))


def _write_tensors(file: str, tensors: dict[str, Tensor]) -> None:
    """Write tensors; to a local disk without a second copy of them in memory."""
    path = storage.local_path(file)
    if path is None:
        storage.write_atomic(file, safetensors.torch.save(tensors))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path)


def _labels_file(parts: Parts) -> bytes:
    columns: dict[str, pa.Array] = {"name": pa.array(parts.names, pa.string())}
    if parts.label_weights is not None:
        columns["weight"] = pa.array(parts.label_weights, pa.float32())
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _read_labels(file: str) -> tuple[list[str], np.ndarray | None]:
    """Names and weights, None where labels are not weighed."""
    table = pa.ipc.open_file(storage.read_bytes(file)).read_all()
    weights = table.column("weight").to_numpy() if "weight" in table.column_names else None
    return table.column("name").to_pylist(), weights


def _check(file: str, facts: dict[str, Any], *, only_size: bool) -> None:
    try:
        is_whole = storage.size(file) == facts["bytes"] and (only_size or storage.sha256(file) == facts["sha256"])
    except FileNotFoundError as error:
        raise DataError(file, "is named in the manifest but missing", _AGAIN) from error
    if not is_whole:
        raise DataError(file, "is damaged: its size or checksum is not the manifest's", _AGAIN)
