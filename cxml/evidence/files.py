"""The folder of a model's evidence.

SOURCE/                    the files of each source, see `cxml.evidence.words`, `neighbours` and `names`
labels.safetensors         train texts of each label, int64 [L], and the offset of its logit, float32 [L]
combination.json           the sources, the combination of their scores, and its metrics on validation texts
manifest.json              format, fingerprint, sizes and checksums; written last

Models of earlier releases have a folder `words` instead, which holds the files of the word source and these three.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.errors import DataError
from cxml.evidence.combination import Combination, cascade_alone, feature_names, scoring_methods
from cxml.evidence.evidence import Evidence
from cxml.evidence.folder import Folder, write_tensors
from cxml.evidence.names import read_names
from cxml.evidence.neighbours import read_neighbours
from cxml.evidence.source import Source
from cxml.evidence.words import read_words
from cxml.tree import LabelTree

EVIDENCE = "evidence"
"""Name of the folder inside that of a model."""
FOLDERS = {EVIDENCE: "cxml-evidence", "words": "cxml-words"}
"""Folders that may hold evidence, with the format of each. The second is used by earlier models."""
SOURCES: dict[str, Callable[[Folder, LabelTree], Source]] = {
    "words": read_words, "neighbours": read_neighbours, "names": read_names
}  # fmt: skip
"""Names of all sources in a model's order, with the function that reads each."""
REMEDY = "Delete the folder and run python -m cxml.train with the same config to make the evidence again."

_VERSION = 1
_LABELS, _COMBINATION = "labels.safetensors", "combination.json"


def write_labels(url: str, frequency: np.ndarray, shift: np.ndarray) -> None:
    """Write the arrays that all sources share: int64 [L] and float32 [L]."""
    write_tensors(storage.join(url, _LABELS), {"frequency": frequency, "shift": shift})


def source_url(url: str, name: str) -> str:
    """Folder of a source in the folder `url`."""
    return storage.join(url, name)


def commit_evidence(url: str, combination: Combination, fingerprint: str) -> None:
    """Write the combination, then the manifest, which marks the folder as complete."""
    values = {
        "sources": list(combination.sources), "way": combination.way, "weights": combination.weights.tolist(),
        "bias": combination.bias, "num_texts": combination.num_texts,
        "metrics": {way: dict(each) for way, each in combination.metrics.items()},
    }  # fmt: skip
    if combination.rarity:
        values["rarity"] = combination.rarity
    if combination.unseen is not None:
        values |= {"unseen_weights": combination.unseen[0].tolist(), "unseen_bias": combination.unseen[1]}
    storage.write_atomic(storage.join(url, _COMBINATION), json.dumps(values).encode())
    manifest = {"format": FOLDERS[EVIDENCE], "version": _VERSION, "fingerprint": fingerprint}
    artefacts.write_manifest(url, {**manifest, "files": artefacts.file_entries(url)})


def write_evidence(url: str, evidence: Evidence, fingerprint: str) -> None:
    """Write a complete folder. Existing content is deleted first."""
    storage.remove_finished(url, artefacts.MANIFEST)
    for source in evidence.sources:
        source.write(source_url(url, source.name))
    write_labels(url, evidence.frequency, evidence.shift)
    commit_evidence(url, evidence.combination, fingerprint)


def read_uncombined(url: str, tree: LabelTree, sources: Sequence[str]) -> Evidence:
    """Read the sources that this run has written so far, with a combination that uses only the cascade."""
    sizes = storage.file_sizes(url)
    entries = {name: FileEntry(name, size, storage.sha256(storage.join(url, name))) for name, size in sizes.items()}
    return _read(Folder(url, entries, REMEDY), tree, cascade_alone(tuple(sources)), is_flat=False)


def evidence_folder(model_url: str) -> str | None:
    """Name of the evidence folder in a model's folder; None if the model has no complete one."""
    return next((name for name in FOLDERS if storage.exists(storage.join(model_url, name, artefacts.MANIFEST))), None)


def read_evidence(url: str, tree: LabelTree, remedy: str = REMEDY, *, width: int | None = None) -> Evidence:
    """The evidence in a folder.

    Args:
        url: the folder, see `evidence_folder`.
        tree: of the model.
        remedy: remedy in error messages.
        width: width of the model's features; None if unknown.

    Raises:
        DataError: the folder is incomplete, or a file is missing, damaged or does not fit the model.
        ConfigError: a package that a source needs is not installed.
    """
    file = storage.join(url, artefacts.MANIFEST)
    is_flat = artefacts.format_of(url, remedy) == FOLDERS["words"]
    try:
        wanted = FOLDERS["words" if is_flat else EVIDENCE]
        manifest = artefacts.read_manifest(url, remedy, format=wanted, version=_VERSION)
    except FileNotFoundError as error:
        raise DataError(file, "is missing: the model's evidence is not finished", remedy) from error
    folder = Folder(url, artefacts.named_entries(manifest.get("files"), file, remedy), remedy)
    evidence = _read(folder, tree, _read_combination(folder, is_flat=is_flat), is_flat=is_flat)
    found = evidence.width("features")
    if width is not None and found not in (None, width):
        raise DataError(url, f"has features of width {found}, but the model's features have width {width}", remedy)
    return evidence


def _read(folder: Folder, tree: LabelTree, combination: Combination, *, is_flat: bool) -> Evidence:
    sources = [SOURCES[name](folder if is_flat else folder.inside(name), tree) for name in combination.sources]
    labels = folder.read_tensors(_LABELS, {"frequency": (np.int64, 1), "shift": (np.float32, 1)})
    if any(len(values) != tree.num_labels for values in labels.values()) or labels["frequency"].min() < 0:
        raise folder.broken(_LABELS, f"does not fit the tree's {tree.num_labels} labels")
    return Evidence(tuple(sources), labels["frequency"], combination, labels["shift"])


@dataclass(frozen=True)
class _Stored:
    sources: tuple[str, ...]
    way: str
    weights: tuple[float, ...]
    bias: float
    num_texts: int
    metrics: dict[str, dict[str, float]]
    unseen_weights: tuple[float, ...] = ()
    unseen_bias: float = 0.0
    rarity: float = 0.0


def _read_combination(folder: Folder, *, is_flat: bool) -> Combination:
    file = folder.where(_COMBINATION)
    values: dict[str, Any] = artefacts.parse_object(folder.read(_COMBINATION), file, folder.remedy)
    values = {"sources": ["words"], **values} if is_flat else values
    stored = artefacts.parse_as(_Stored, values, file, folder.remedy)
    if not stored.sources or stored.sources != tuple(name for name in SOURCES if name in stored.sources):
        raise folder.broken(_COMBINATION, f"must name sources from {', '.join(SOURCES)}, in this order")
    numbers = np.array([*stored.weights, stored.bias, *stored.unseen_weights, stored.unseen_bias, stored.rarity])
    count = len(feature_names(stored.sources))
    has_fitting = len(stored.weights) == count and len(stored.unseen_weights) in (0, count)
    is_sound = has_fitting and bool(np.isfinite(numbers).all()) and 0 <= stored.rarity <= 1
    if stored.way not in scoring_methods(stored.sources) or not is_sound:
        raise folder.broken(_COMBINATION, f"does not describe a combination of {count} features")
    unseen = (np.array(stored.unseen_weights), stored.unseen_bias) if stored.unseen_weights else None
    return Combination(
        stored.sources, stored.way, np.array(stored.weights), stored.bias, stored.num_texts, stored.metrics, unseen,
        stored.rarity,
    )  # fmt: skip
