"""The interface of readers: chunks of consecutive rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cxml.data import Ragged
from cxml.errors import DataError

SPLITS = ("train", "test")
CHUNK_ROWS = 8192
LEAVE_OUT = "Or skip such rows: --data.on-error skip."
_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        file: file of the row.
        line: line of the row, or row number if the file has no lines, from 1.
        what: the problem; rows with the same problem are counted together.
        remedy: how to fix it.
        detail: details of this row.
        is_error: False if the form requires skipping the row.
    """

    file: str
    line: int
    what: str
    remedy: str
    detail: str = ""
    is_error: bool = True

    def error(self) -> DataError:
        """The problem as an exception."""
        return DataError(self.file, self.what + self.detail, self.remedy, line=self.line)


@dataclass(frozen=True)
class RawChunk:
    """n consecutive raw rows of a split.

    Attributes:
        file: of the texts.
        lines: line of each row in `file`, from 1, int64 [n].
        texts: n texts; undefined for rows in `problems`.
        labels: label ids, in any order; may be out of range.
        label_file: of the labels.
        label_lines: line of each row in `label_file`, from 1, int64 [n].
        keys: the source's own key of each row, or None if it has none.
        problems: problems of unreadable rows, by their index in the chunk.
    """

    file: str
    lines: np.ndarray
    texts: list[str]
    labels: Ragged
    label_file: str
    label_lines: np.ndarray
    keys: Sequence[str] | None = None
    problems: Mapping[int, Problem] = field(default_factory=dict)


def show(value: object) -> str:
    """A value for a message, truncated if it is long."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


class Reader(Protocol):
    """A raw data set. Reading is repeatable."""

    @property
    def splits(self) -> tuple[str, ...]:
        """`SPLITS`, and `validation` if the source has such texts."""
        ...

    @property
    def collects_labels(self) -> bool:
        """Whether the labels are those that occur in the rows; else a file lists them."""
        ...

    def facts(self) -> dict[str, Any]:
        """Facts that identify the content, such as hashes of the files. Raises `DataError` if a file is missing."""
        ...

    def label_names(self) -> Sequence[str]:
        """A name for each of the L labels, in the order of their ids."""
        ...

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """The rows of a split, in order, in bounded memory."""
        ...
