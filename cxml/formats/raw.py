"""The common in-memory form of raw data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import sparse

from cxml.data import LabelTitles


@dataclass(frozen=True)
class RawSplit:
    """Texts of one split and their labels.

    Attributes:
        texts: N texts, none of them blank.
        labels: CSR [N, L] with sorted, unique indices and at least one label in each row.
    """

    texts: Sequence[str]
    labels: sparse.csr_matrix


@dataclass(frozen=True)
class RawDataset:
    """The splits, see `Reader.splits`, a name for each of the L labels, and titles if there is a labels file."""

    splits: dict[str, RawSplit]
    label_names: list[str]
    titles: LabelTitles | None = None

    @property
    def words(self) -> LabelTitles:
        """The titles, or the names for a source without titles."""
        return self.titles or LabelTitles.of_names(self.label_names)
