"""Inspect a prepared data set: counts, lengths, labels, share of rare labels, examples; optionally plot histograms.

python -m cxml.data_tools.inspect runs/quickstart/data --plot data.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from cxml import extras
from cxml.cli import run_tool


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show counts, lengths, labels per text, the share of rare labels and examples of a prepared data set."""

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """Folder or fsspec URL that contains the manifest.json."""
    examples: int = 3
    """Number of texts per split to show, evenly spaced."""
    plot: str = ""
    """PNG file or URL for histograms (requires the extra `plots`); empty: no histograms."""


def _run(command: InspectCommand) -> None:
    if command.plot:
        extras.require("--plot", command.plot, "matplotlib")
    from cxml.inspection.dataset_statistics import collect_statistics, draw, print_statistics  # noqa: PLC0415  heavy

    statistics = collect_statistics(command.url)
    print_statistics(command.url, statistics, command.examples)
    if command.plot:
        draw(statistics, command.plot)
        print(f"Histograms written to {command.plot}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(InspectCommand, _run, "python -m cxml.data_tools.inspect", arguments)


if __name__ == "__main__":
    sys.exit(main())
