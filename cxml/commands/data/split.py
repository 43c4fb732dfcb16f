"""Split off a validation split from a prepared data set.

python -m cxml.data_tools.split runs/mine/data data/mine-held-out --fraction 0.1 --seed 0
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
class SplitCommand:
    """Write a data set whose train split is divided at random into train and validation.

    The other splits are copied. Tokens and tf-idf do not change. To train on the new data set, set `data.directory` of
    the same config to it.
    """

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """Folder or fsspec URL of the prepared data set."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder or fsspec URL of the new data set; must not contain one."""
    fraction: float = 0.1
    """Share of the train texts to hold out, above 0 and below 1."""
    seed: int = 0
    """Seed of the selection; the same seed holds out the same texts."""
    name: str = "validation"
    """Name of the new split; `test` replaces the test split."""


def _run(command: SplitCommand) -> None:
    from cxml.preparation.validation_split import hold_out  # noqa: PLC0415  heavy: waits until a command line is good

    manifest = hold_out(command.url, command.out, fraction=command.fraction, seed=command.seed, name=command.name)
    counts = ", ".join(counted(manifest.rows(split), f"{split} text") for split in manifest.splits)
    print(f"{counts} at {urls.masked(command.out)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(SplitCommand, _run, "python -m cxml.data_tools.split", arguments)


if __name__ == "__main__":
    sys.exit(main())
