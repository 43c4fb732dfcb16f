"""Labels in several columns of a table: one label in each cell, or columns of 0 and 1 that are named after labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxml.formats.label_text import NoLabelsError
from cxml.formats.reader import show

_NUMBERS, _WORDS = {"0": False, "1": True, "0.0": False, "1.0": True}, {"false": False, "true": True}
_FLAGS = _NUMBERS | _WORDS
_NUMBERED = re.compile(r"(label|tag|categor(y|ie)|cat|class|topic|code|level|lvl|l)s?[_\- .]?\d{1,2}", re.IGNORECASE)


@dataclass(frozen=True)
class LabelColumns:
    """At least two columns with the labels of a row.

    Attributes:
        names: the columns.
        are_flags: whether cells are 0 or 1 (or false or true), for the label with the name of the column.
    """

    names: tuple[str, ...]
    are_flags: bool

    def labels_of(self, row: Mapping[str, Any]) -> list[str | int]:
        """The labels of a row, each once.

        Raises:
            NoLabelsError: a cell of flags has another content, or all cells look like flags but are not.
        """
        if self.are_flags:
            return [name for name in self.names if self._flag(row, name)]
        cells = (row.get(name) for name in self.names)
        stripped = (cell.strip() if isinstance(cell, str) else cell for cell in cells)
        filled = [cell for cell in stripped if cell is not None and cell != ""]
        if len(filled) > 1 and all(_plain(cell) in _FLAGS for cell in filled):
            remedy = "Use data.source.kind table, which reads such columns, or write the names of the true labels."
            raise NoLabelsError("only 0 and 1", f": {show(filled)}", remedy)
        return list(dict.fromkeys(filled))

    @staticmethod
    def _flag(row: Mapping[str, Any], name: str) -> bool:
        flag = _FLAGS.get(_plain(row.get(name)))
        if flag is None:
            remedy = "Write 1 if the text has the label, else 0."
            raise NoLabelsError(f"neither 0 nor 1 in {name!r}", f": {show(row.get(name))}", remedy)
        return flag


ReadColumns = Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
"""Reads some columns of the first rows of a table."""


def guess_label_columns(columns: Sequence[str], read: ReadColumns) -> LabelColumns | None:
    """The columns of labels in a table without one column of them, if they are numbered, or contain only 0 and 1."""
    columns = [name for name in columns if columns.count(name) == 1]
    numbered = _numbered_columns(columns)
    if numbered:
        return joined_columns(numbered, read)
    flags = _flag_columns(columns, read(columns))
    return LabelColumns(flags, are_flags=True) if flags else None


def joined_columns(names: tuple[str, ...], read: ReadColumns) -> LabelColumns:
    """Given columns of labels, and whether they contain only 0 and 1."""
    return LabelColumns(names, are_flags=_flag_columns(names, read(names)) == names)


def _numbered_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Columns such as `label1` and `label2`, or `Cat_1`, `Cat_2` and `Cat_3`; empty for fewer than two."""
    found = tuple(name for name in columns if _NUMBERED.fullmatch(name.strip()))
    return found if len(found) > 1 else ()


def _flag_columns(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns whose cells are all 0 or 1, or all false or true, whichever notation more columns have.

    Empty for fewer than two, and if no cell is 1 or true.

    Args:
        columns: the columns to look at.
        rows: the first rows of the table.
    """
    cells = {name: set[str]() for name in columns}
    for row in rows:
        for name in columns:
            cells[name].add(_plain(row.get(name)))
    of_notations = [tuple(name for name in columns if cells[name] and cells[name] <= flags.keys())
                    for flags in (_NUMBERS, _WORDS)]  # fmt: skip
    found = max(of_notations, key=len)
    is_any_set = any(_FLAGS[cell] for name in found for cell in cells[name])
    return found if len(found) > 1 and is_any_set else ()


def _plain(cell: object) -> str:
    return str(cell).strip().lower()
