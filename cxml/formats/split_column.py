"""A column of a table that names the split of each row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxml.console import log_once
from cxml.data import VALIDATION
from cxml.formats.files import VALIDATION_NAMES
from cxml.formats.reader import Problem
from cxml.formats.table_rows import Row

_COLUMNS = ("split", "set", "subset", "partition", "dataset", "fold", "data_split")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test",
           **dict.fromkeys(VALIDATION_NAMES, VALIDATION)}  # fmt: skip


@dataclass(frozen=True)
class SplitColumn:
    """The column, and the splits that it names: `train`, `test` and perhaps `validation`."""

    column: str
    splits: tuple[str, ...]

    def select(self, rows: Iterable[tuple[int, Row]], split: str) -> Iterator[tuple[int, Row]]:
        """The rows of a split. Problems belong to the train split."""
        for number, row in rows:
            if ("train" if isinstance(row, Problem) else _split_of(row.get(self.column))) == split:
                yield number, row


def find_split_column(
    url: str, columns: Sequence[str], read: Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
) -> SplitColumn | None:
    """The only column with a usual name whose cells are all names of splits, train and test among them.

    Warns if a column names these splits, but not in all rows.

    Args:
        url: the table.
        columns: the columns to look at.
        read: reads some columns of all rows, once for each call.
    """
    named = [name for name in columns if name.strip().lower() in _COLUMNS]
    if not named:
        return None
    seen: dict[str, set[str | None]] = {name: set() for name in named}
    for row in read(named):
        for name in named:
            seen[name].add(_split_of(row.get(name)))
    found = [name for name, splits in seen.items() if {"train", "test"} <= splits]
    for name in found:
        if None in seen[name]:
            log_once(
                f"{url}: the column {name!r} names the splits train and test, but not in all rows, so it is not used. "
                "Correct its cells, or write the splits to files such as train.csv and test.csv.",
                logging.WARNING,
            )
    found = [name for name in found if None not in seen[name]]
    if len(found) != 1:
        return None
    return SplitColumn(found[0], ("train", "test", *((VALIDATION,) if VALIDATION in seen[found[0]] else ())))


def _split_of(cell: object) -> str | None:
    return _SPLITS.get(cell.strip().lower()) if isinstance(cell, str) else None
