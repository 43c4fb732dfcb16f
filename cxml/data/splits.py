"""The texts for training, for validation, or all texts except the test split.

Validation texts are used to choose settings, thresholds and weights, and never for training.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from cxml.data.dataset import ShardedDataset, indicators
from cxml.data.manifest import DataManifest
from cxml.data.name_texts import TextRows
from cxml.data.order import epoch_order
from cxml.data.ragged import Ragged, concatenate
from cxml.errors import ConfigError

VALIDATION = "validation"
"""Name of the split of validation texts, in data sets that have one."""

_SEED = 0  # the same for all runs, so that runs with different seeds hold out the same texts


class LabelledRows(TextRows, Protocol):
    """`TextRows` with labels and words as matrices: a split, or a subset of one."""

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [N, L]."""
        ...

    def features(self, indices: np.ndarray) -> sparse.csr_matrix:
        """Tf-idf of the rows `indices` int64 [n], in that order: CSR float32 [n, F]."""
        ...


class RowSubset:
    """A subset of a split's rows; satisfies `LabelledRows`."""

    def __init__(self, dataset: ShardedDataset, rows: np.ndarray) -> None:
        """`rows`: int64 [n], rows of the split, in the order of the subset."""
        self.manifest: DataManifest = dataset.manifest
        self.rows = rows
        self.lengths = dataset.lengths[rows]
        self.label_counts = dataset.label_counts[rows]
        self._dataset = dataset

    def __len__(self) -> int:
        """Rows n."""
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """See `TextRows.gather`."""
        return self._dataset.gather(self.rows[indices])

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [n, L]."""
        return indicators(self._dataset.gather(self.rows)[1], self.manifest.num_labels)

    def features(self, indices: np.ndarray) -> sparse.csr_matrix:
        """See `LabelledRows.features`."""
        return self._dataset.features(self.rows[indices])


def num_held_out(num_rows: int, fraction: float) -> int:
    """Number of rows that `held_out_rows` holds out."""
    return round(num_rows * fraction)


def held_out_rows(num_rows: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The kept and the held-out rows, sorted int64: round(`fraction` x N) rows drawn with `seed` are held out."""
    order = epoch_order(num_rows, seed, 0)
    num_held = num_held_out(num_rows, fraction)
    return np.sort(order[num_held:]), np.sort(order[:num_held])


def train_texts(url: str, validation_fraction: float) -> ShardedDataset | RowSubset:
    """The texts to train on: the train split of the data set at `url` without its held-out texts.

    Args:
        url: a prepared data set.
        validation_fraction: held-out share of the train texts, see `validation_texts`.

    Raises:
        ConfigError: the share leaves no text for training or for validation, or the data set already has a validation
            split.
    """
    split = ShardedDataset(url, "train")
    split.start_verification()  # while the model loads
    return RowSubset(split, _rows(split, validation_fraction)[0]) if validation_fraction else split


def validation_texts(url: str, validation_fraction: float) -> ShardedDataset | RowSubset | None:
    """The validation texts: the split `validation` of the data set, or a share of its train texts; None without either.

    The choice of texts depends only on the number of train texts and on the share.

    Args:
        url: a prepared data set.
        validation_fraction: share of the train texts; 0 for none.

    Raises:
        ConfigError: see `train_texts`.
    """
    if not validation_fraction and VALIDATION not in DataManifest.read(url).splits:
        return None
    split = ShardedDataset(url, "train" if validation_fraction else VALIDATION)
    return RowSubset(split, _rows(split, validation_fraction)[1]) if validation_fraction else split


def refuse_second_validation(splits: Collection[str], fraction: float) -> None:
    """Raise `ConfigError` if a share of the train texts is to be held out although there is a split `validation`."""
    if fraction and VALIDATION in splits:
        raise ConfigError(
            "train.validation_fraction", fraction, "the data set has a validation split already",
            "Leave it out, or set it to 0, to use that split.",
        )  # fmt: skip


def _rows(split: ShardedDataset, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    field = "train.validation_fraction"
    refuse_second_validation(split.manifest.splits, fraction)
    kept, held = held_out_rows(len(split), fraction, _SEED)
    if not len(kept) or not len(held):
        problem = f"leaves no text to {'train' if not len(kept) else 'validate'} on, of {len(split)}"
        share = max(0.1, math.ceil(100 / len(split)) / 100)  # of one text at least
        remedy = f"Choose another share, such as {share:g}." if len(split) > 1 else "Add texts, or set it to 0."
        raise ConfigError(field, fraction, problem, remedy)
    return kept, held


class JoinedRows:
    """The concatenated rows of splits; satisfies `LabelledRows`."""

    def __init__(self, parts: Sequence[ShardedDataset]) -> None:
        """`parts`: at least one, of one data set."""
        self.manifest: DataManifest = parts[0].manifest
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.label_counts = np.concatenate([part.label_counts for part in parts])

    def __len__(self) -> int:
        """Rows of all parts."""
        return int(self._starts[-1])

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """See `TextRows.gather`."""
        rows, place = self._by_part(indices)
        found = [part.gather(own) for part, own in zip(self._parts, rows, strict=True)]
        ids, labels = (concatenate(each).take(place) for each in zip(*found, strict=True))
        return ids, labels

    def labels_csr(self) -> sparse.csr_matrix:
        """Label indicators, CSR float32 [N, L]."""
        return sparse.csr_matrix(sparse.vstack([part.labels_csr() for part in self._parts]))

    def features(self, indices: np.ndarray) -> sparse.csr_matrix:
        """See `LabelledRows.features`."""
        rows, place = self._by_part(indices)
        found = [part.features(own) for part, own in zip(self._parts, rows, strict=True)]
        return sparse.csr_matrix(sparse.vstack(found))[place]

    def _by_part(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Rows of each part, and the position of each of `indices` in them, int64 [n]."""
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        rows = [indices[parts == part] - start for part, start in enumerate(self._starts[:-1])]
        return rows, np.argsort(np.argsort(parts, kind="stable"))


def all_labelled_texts(url: str) -> ShardedDataset | JoinedRows:
    """All texts of the data set at `url` except the test split: its splits train and, if it exists, validation."""
    train = ShardedDataset(url, "train")
    train.start_verification()  # while the model loads
    if VALIDATION not in train.manifest.splits:
        return train
    return JoinedRows([train, ShardedDataset(url, VALIDATION)])
