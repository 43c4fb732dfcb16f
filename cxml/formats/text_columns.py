"""Texts from one column of a row, or from several that are joined, such as title and abstract."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

JOIN = "+"


class NoTextError(ValueError):
    """The columns of a row contain no text."""


def split_columns(value: str, names: Collection[str] = ()) -> tuple[str, ...]:
    """The columns that a setting such as `title+abstract` names.

    Args:
        value: the setting.
        names: columns of the table, if they are known. They can contain blanks or the plus sign themselves.
    """
    return (value,) if value in names else tuple(part if part in names else part.strip() for part in value.split(JOIN))


def text_of(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The text of a row: its non-blank cells, joined by blanks.

    Raises:
        NoTextError: a cell is not a string, or all are missing.
    """
    cells = [row.get(name) for name in columns]
    for name, cell in zip(columns, cells, strict=True):
        if cell is not None and not isinstance(cell, str):
            raise NoTextError(f"{name!r} is not a string")
    if all(cell is None for cell in cells):
        raise NoTextError(f"no text in {' or '.join(map(repr, columns))}")
    return " ".join(cell for cell in cells if cell and not cell.isspace())
