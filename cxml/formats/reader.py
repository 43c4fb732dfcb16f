"""What every raw form is read as: chunks of consecutive rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cxml.data import Ragged
from cxml.errors import DataError

SPLITS = ("train", "test")
CHUNK_ROWS = 8192
LEAVE_OUT = "Or leave such rows out: --data.on-error skip."
_SHOWN = 80


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        file: where it stands.
        line: its line, or its row where the file has no lines, from 1.
        what: what is wrong; rows with the same one are counted together.
        remedy: what to do about it.
        detail: more about this very row.
        is_error: False where leaving the row out is part of the form's protocol.
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
    """n consecutive rows of a split as the files have them.

    Attributes:
        file: of the texts.
        lines: line of each row in `file`, from 1, int64 [n].
        texts: n texts; anything where `problems` names the row.
        labels: label ids, in any order, perhaps out of range.
        label_file: of the labels.
        label_lines: line of each row in `label_file`, from 1, int64 [n].
        keys: the source's own key of each row, or None if it has none.
        problems: rows that could not be read, by their place in the chunk.
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
    """A value for a message, cut off where it is long."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


class Reader(Protocol):
    """One raw data set. Reading it again gives the same chunks."""

    @property
    def splits(self) -> tuple[str, ...]:
        """`SPLITS`, and `validation` where the source has such texts."""
        ...

    @property
    def collects_labels(self) -> bool:
        """Whether the labels are those that occur in the rows; else a file lists them."""
        ...

    def facts(self) -> dict[str, Any]:
        """What identifies the content, such as hashes of the files. Raises `DataError` where a file is missing."""
        ...

    def label_names(self) -> Sequence[str]:
        """A name for each of the L labels, in the order of their ids."""
        ...

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """The rows of a split, in order, in bounded memory."""
        ...
