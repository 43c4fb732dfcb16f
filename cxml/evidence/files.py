"""The folder of a model's word evidence.

vocabulary.arrow          words and their weights
level-00.safetensors      the classifiers of each level, coarse to fine, that of the labels last: see `LevelWeights`
labels.safetensors        train texts of each label, int64 [L], and what is added to its logit, float32 [L]
combination.json          how scores are combined, and what was seen on validation texts
manifest.json             format, fingerprint, sizes and checksums; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
import torch

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.checkpoint import parse_tensors, tensor_file
from cxml.data import Vocabulary, checked_vocabulary
from cxml.data.schema import VOCABULARY_FILE, VOCABULARY_SCHEMA
from cxml.errors import DataError
from cxml.evidence.beam import LevelWeights
from cxml.evidence.combination import FACTS, Combination, Way
from cxml.evidence.word_evidence import WordEvidence
from cxml.evidence.word_model import WordModel
from cxml.tree import LabelTree

WORDS = "words"
"""Name of the folder inside that of a model."""
_FORMAT, _VERSION = "cxml-words", 1
_MANIFEST, _LABELS, _COMBINATION = "manifest.json", "labels.safetensors", "combination.json"
_TYPES = {"starts": np.int64, "words": np.int32, "offsets": np.int64, "nodes": np.int32,
          "values": np.float32, "bias": np.float32}  # fmt: skip
REMEDY = "Delete the folder and run python -m cxml.train with the same config: it makes the words again."


def write_words(url: str, vocabulary: Vocabulary, model: WordModel, frequency: np.ndarray, shift: np.ndarray) -> None:
    """Write all but how it is combined with a cascade, into a folder that is emptied first."""
    storage.remove_finished(url, _MANIFEST)
    storage.write_atomic(storage.join(url, VOCABULARY_FILE), artefacts.arrow_file(vocabulary.table()))
    for number, level in enumerate(model.levels):
        _write_tensors(storage.join(url, _level_file(number)), level._asdict())
    _write_tensors(storage.join(url, _LABELS), {"frequency": frequency, "shift": shift})


def commit_words(url: str, combination: Combination, fingerprint: str) -> None:
    """Write the combination and, last, the manifest, which makes the folder whole."""
    values = {
        "way": combination.way, "weights": combination.weights.tolist(), "bias": combination.bias,
        "num_texts": combination.num_texts, "metrics": {way: dict(each) for way, each in combination.metrics.items()},
    }  # fmt: skip
    storage.write_atomic(storage.join(url, _COMBINATION), json.dumps(values).encode())
    manifest = {"format": _FORMAT, "version": _VERSION, "fingerprint": fingerprint}
    artefacts.write_manifest(url, {**manifest, "files": artefacts.file_entries(url)})


def write_evidence(url: str, evidence: WordEvidence, fingerprint: str) -> None:
    """Write a whole folder."""
    write_words(url, evidence.vocabulary, evidence.model, evidence.frequency, evidence.shift)
    commit_words(url, evidence.combination, fingerprint)


def read_uncombined(url: str, tree: LabelTree) -> WordEvidence:
    """What `write_words` has written in this run, with a combination that takes the cascade alone."""
    sizes = storage.file_sizes(url)
    entries = {name: FileEntry(name, size, storage.sha256(storage.join(url, name))) for name, size in sizes.items()}
    return _read(_Folder(url, entries, REMEDY), tree, Combination("cascade", np.zeros(len(FACTS)), 0.0, 0, {}))


def read_evidence(url: str, tree: LabelTree, remedy: str = REMEDY) -> WordEvidence:
    """The evidence in the folder `url`.

    Raises:
        DataError: a file is missing or damaged, or does not fit the tree; ends with `remedy`.
    """
    file = storage.join(url, _MANIFEST)
    try:
        manifest = artefacts.read_manifest(url, remedy, format=_FORMAT, version=_VERSION)
    except FileNotFoundError as error:
        raise DataError(file, "is missing: the model's words are not finished", remedy) from error
    folder = _Folder(url, artefacts.named_entries(manifest.get("files"), file, remedy), remedy)
    return _read(folder, tree, _read_combination(folder))


@dataclass(frozen=True)
class _Folder:
    """A folder, the files that its manifest names, and what to do where one is wrong."""

    url: str
    entries: Mapping[str, FileEntry]
    remedy: str

    def read(self, name: str) -> bytes:
        if name not in self.entries:
            raise DataError(self.url, f"its manifest does not name {name}", self.remedy)
        return artefacts.read_file(self.url, self.entries[name], self.remedy)

    def read_vectors(self, name: str, types: Mapping[str, type]) -> dict[str, np.ndarray]:
        """The tensors of a file, which must have these names and types and one dimension."""
        tensors = parse_tensors(self.read(name), storage.join(self.url, name), self.remedy)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.dim() == 1}
        found = {name: array.dtype for name, array in arrays.items()}
        if found != {name: np.dtype(kind) for name, kind in types.items()}:
            raise self.broken(name, f"does not hold the vectors {', '.join(types)}")
        return arrays

    def broken(self, name: str, problem: str) -> DataError:
        return DataError(storage.join(self.url, name), problem, self.remedy)


def _read(folder: _Folder, tree: LabelTree, combination: Combination) -> WordEvidence:
    where = storage.join(folder.url, VOCABULARY_FILE)
    batches = artefacts.read_batches(folder.read(VOCABULARY_FILE), [VOCABULARY_SCHEMA], where, folder.remedy)
    vocabulary = checked_vocabulary(pa.Table.from_batches(batches, VOCABULARY_SCHEMA), where, folder.remedy)
    levels = []
    for number, size in enumerate(tree.level_sizes):
        level = LevelWeights(**folder.read_vectors(_level_file(number), _TYPES))
        children = tree.offsets[number - 1] if number else np.array([0, size])
        if problem := _level_problem(level, children, len(vocabulary.terms)):
            raise folder.broken(_level_file(number), problem)
        levels.append(level)
    labels = folder.read_vectors(_LABELS, {"frequency": np.int64, "shift": np.float32})
    if any(len(values) != tree.num_labels for values in labels.values()) or labels["frequency"].min() < 0:
        raise folder.broken(_LABELS, f"is not about the tree's {tree.num_labels} labels")
    model = WordModel(tree, tuple(levels), len(vocabulary.terms))
    return WordEvidence(vocabulary, model, labels["frequency"], combination, labels["shift"])


@dataclass(frozen=True)
class _Stored:
    way: str
    weights: tuple[float, ...]
    bias: float
    num_texts: int
    metrics: dict[str, dict[str, float]]


def _read_combination(folder: _Folder) -> Combination:
    file = storage.join(folder.url, _COMBINATION)
    values = artefacts.parse_object(folder.read(_COMBINATION), file, folder.remedy)
    stored = artefacts.parse_as(_Stored, values, file, folder.remedy)
    ways = {way: way for way in get_args(Way)}
    numbers = np.array([*stored.weights, stored.bias])
    if stored.way not in ways or len(stored.weights) != len(FACTS) or not np.isfinite(numbers).all():
        raise folder.broken(_COMBINATION, f"is not a way to combine scores by {len(FACTS)} facts")
    return Combination(ways[stored.way], numbers[:-1], stored.bias, stored.num_texts, stored.metrics)


def _level_problem(level: LevelWeights, children: np.ndarray, num_words: int) -> str:
    """What keeps weights from being those of the nodes below a level, whose children are given, or nothing."""
    num_parents, num_nodes = len(children) - 1, int(children[-1])
    is_cut = _are_bounds(level.starts, num_parents, len(level.words)) and _are_bounds(
        level.offsets, len(level.words), len(level.nodes)
    )
    if not is_cut or len(level.values) != len(level.nodes) or len(level.bias) != num_nodes:
        return f"does not hold the classifiers of {num_nodes} nodes below {num_parents}"
    parent_of = np.repeat(np.arange(num_parents), np.diff(level.starts))
    rises = (np.diff(level.words.astype(np.int64) + parent_of * num_words) > 0).all()
    if len(level.words) and not (rises and 0 <= level.words.min() <= level.words.max() < num_words):
        return f"does not hold words of 0..{num_words - 1} that rise within a parent"
    owner = np.repeat(parent_of, np.diff(level.offsets))
    if ((level.nodes < children[owner]) | (level.nodes >= children[owner + 1])).any():
        return "gives a weight to a node that is not a child of its parent"
    return ""


def _are_bounds(bounds: np.ndarray, count: int, end: int) -> bool:
    return len(bounds) == count + 1 and bounds[0] == 0 and bounds[-1] == end and bool((np.diff(bounds) >= 0).all())


def _level_file(number: int) -> str:
    return f"level-{number:02d}.safetensors"


def _write_tensors(file: str, arrays: dict[str, np.ndarray]) -> None:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    storage.write_atomic(file, tensor_file(tensors))
