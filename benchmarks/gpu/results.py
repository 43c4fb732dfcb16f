"""Stores the figures of one card as lines of JSON and prints them as a table for docs/results.md.

python benchmarks/gpu/results.py FILE   # prints the table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Results:
    """A file to which each figure adds a line.

    Attributes:
        file: path of the file; with None figures are only printed.
        card: model of the card.
    """

    file: Path | None
    card: str

    def note(
        self, what: str, figure: float | None, unit: str, beside: Mapping[str, float | None] | None = None
    ) -> None:
        """Print and write a figure with those that it is compared with; None stands for figures not measured."""
        others = {name: _rounded(value) for name, value in (beside or {}).items() if value is not None}
        found = {"card": self.card, "what": what, "figure": _rounded(figure), "unit": unit, "beside": others}
        line = json.dumps(found)
        print(line, flush=True)
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(f"{line}\n")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def table_of(lines: list[str]) -> str:
    """Format the figures as a table in Markdown."""
    figures = [json.loads(line) for line in lines]
    rows = [f"| {', '.join(sorted({own['card'] for own in figures}))} | measured | beside |", "| --- | --- | --- |"]
    for own in figures:
        figure = "not measured" if own["figure"] is None else f"{own['figure']:,g} {own['unit']}"
        beside = ", ".join(f"{name} {value:,g}" for name, value in own["beside"].items())
        rows.append(f"| {own['what']} | {figure} | {beside} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table_of(Path(sys.argv[1]).read_text().splitlines()))
