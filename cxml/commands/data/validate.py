"""Validate a prepared data set: checksums, schemas, counts, ranges, order, norms.

python -m cxml.data_tools.validate runs/quickstart/data
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from cxml import urls
from cxml.cli import run_tool
from cxml.console import counted


@dataclass(frozen=True, kw_only=True)
class ValidateCommand:
    """Read a whole prepared data set and check every property of its format (docs/formats.md)."""

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """Folder or fsspec URL that contains the manifest.json."""


def _run(command: ValidateCommand) -> None:
    from cxml.inspection.checks import validate  # noqa: PLC0415  heavy: waits until a command line is good

    manifest = validate(command.url)
    counts = [
        *(counted(manifest.rows(split), f"{split} text") for split in manifest.splits),
        counted(manifest.num_labels, "label"), counted(len(manifest.files()), "file"),
    ]  # fmt: skip
    print(f"{urls.masked(command.url)} is valid: {', '.join(counts)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 if the data set is broken."""
    return run_tool(ValidateCommand, _run, "python -m cxml.data_tools.validate", arguments)


if __name__ == "__main__":
    sys.exit(main())
