"""Vectors with labels in a folder: the texts of neighbours, the names of labels.

part-00000.safetensors     a part of the vectors, see `LabelledVectors`; one file per process
lists.safetensors          the centres of the lists, and the parameters of the source
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxml import storage
from cxml.data import Ragged, concatenate, lengths_to_offsets
from cxml.evidence.folder import Folder, are_bounds, write_tensors
from cxml.evidence.nearest import VectorIndex

_LISTS = "lists.safetensors"
_PART_TYPES = {
    "vectors": (np.float16, 2), "lists": (np.int32, 1), "label_offsets": (np.int64, 1), "labels": (np.int32, 1)
}  # fmt: skip


class LabelledVectors(NamedTuple):
    """The vectors of n texts or names, and their labels.

    Attributes:
        vectors: features of unit length, float16 [n, D].
        lists: list of each vector, int32 [n].
        labels: int32 label ids of each vector.
    """

    vectors: np.ndarray
    lists: np.ndarray
    labels: Ragged


def write_part(url: str, number: int, part: LabelledVectors) -> None:
    """Write a part of the vectors into the folder `url`."""
    arrays = {
        "vectors": part.vectors, "lists": part.lists, "label_offsets": part.labels.offsets, "labels": part.labels.values
    }  # fmt: skip
    write_tensors(storage.join(url, f"part-{number:05d}.safetensors"), arrays)


def write_lists(url: str, centres: np.ndarray, parameters: Sequence[float]) -> None:
    """Write the data that all parts share; centres float32 [C, D]."""
    write_tensors(storage.join(url, _LISTS), {"centres": centres, "parameters": np.array(parameters, np.float32)})


def write_vectors(url: str, index: VectorIndex, labels: Ragged, parameters: Sequence[float]) -> None:
    """Write an index and the labels of its rows as one part."""
    lists = np.repeat(np.arange(len(index.centres), dtype=np.int32), np.diff(index.bounds))
    write_part(url, 0, LabelledVectors(index.vectors(), lists, labels))
    write_lists(url, index.centres, parameters)


def read_vectors(folder: Folder, num_labels: int, num_parameters: int) -> tuple[VectorIndex, Ragged, list[float]]:
    """Read an index, the labels of its rows, and the parameters, of which the first is above 0.

    Raises:
        DataError: a file is missing or damaged, or refers to a label or list that does not exist.
        ConfigError: faiss is not installed.
    """
    lists = folder.read_tensors(_LISTS, {"centres": (np.float32, 2), "parameters": (np.float32, 1)})
    centres, parameters = lists["centres"], lists["parameters"].tolist()
    if not len(centres) or len(parameters) != num_parameters or parameters[0] <= 0:
        raise folder.broken(_LISTS, f"must contain centres and {num_parameters} parameters, the first above 0")
    parts = [_read_part(folder, name, centres.shape, num_labels) for name in folder.names("part-")]
    if not parts:
        raise folder.broken("part-00000.safetensors", "is missing")
    return *indexed(parts, centres), parameters


def indexed(parts: Sequence[LabelledVectors], centres: np.ndarray) -> tuple[VectorIndex, Ragged]:
    """An index of all parts and the labels of its rows; float32 [C, D] are the centres of the lists."""
    lists = np.concatenate([part.lists for part in parts])
    vectors = np.concatenate([part.vectors for part in parts])
    labels = concatenate([part.labels for part in parts])
    bounds = lengths_to_offsets(np.bincount(lists, minlength=len(centres)))
    if len(centres) > 1:
        order = np.argsort(lists, kind="stable")
        vectors, labels = vectors[order], labels.take(order)
    return VectorIndex(vectors, bounds, centres), labels


def _read_part(folder: Folder, name: str, shape: tuple[int, ...], num_labels: int) -> LabelledVectors:
    arrays = folder.read_tensors(name, _PART_TYPES)
    vectors, lists, offsets, labels = (arrays[key] for key in _PART_TYPES)
    num_lists, width = shape
    if vectors.shape[1] != width or len(lists) != len(vectors) or not are_bounds(offsets, len(vectors), len(labels)):
        raise folder.broken(name, f"must contain vectors of width {width}, their lists and labels")
    for values, end in ((lists, num_lists), (labels, num_labels)):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise folder.broken(name, f"refers to a list or label outside 0..{end - 1}")
    return LabelledVectors(vectors, lists, Ragged(labels, offsets))
