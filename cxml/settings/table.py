"""A table of the choices for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from cxml.settings.choose import Choice


def choices_table(choices: Sequence[Choice]) -> Table:
    """One row per choice: field, value and reason."""
    table = Table("field", "value", "reason", title="Settings chosen from the data", title_justify="left")
    for choice in choices:
        table.add_row(choice.name, Text(_shown(choice.value)), Text(choice.reason))  # brackets are not markup
    return table


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value) or "none"
