"""Inspect a label tree: sizes, balance, similarity of the labels in clusters, cluster recall, examples.

python -m cxml.data_tools.tree_report runs/quickstart/tree --data runs/quickstart/data
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from cxml.cli import run_tool


@dataclass(frozen=True, kw_only=True)
class TreeReportCommand:
    """Show the sizes and the balance of each level of a label tree.

    With the data set, also show the similarity of the labels within clusters, the cluster recall of the test texts, and
    the label names of some clusters.
    """

    url: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="URL")]
    """Folder or fsspec URL of the tree, which contains its manifest.json."""
    data: str = ""
    """Folder or URL of the tree's prepared data set; empty: sizes only."""
    top_k: int = 10
    """Number of clusters that a text selects at each level."""
    texts: int = 10_000
    """Maximum number of test texts to use, evenly spaced."""
    examples: int = 3
    """Number of clusters per level to show, evenly spaced."""


def _run(command: TreeReportCommand) -> None:
    from cxml.inspection.tree_statistics import print_tree_report  # noqa: PLC0415  heavy

    print_tree_report(
        command.url, command.data, top_k=command.top_k, max_texts=command.texts, num_examples=command.examples
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(TreeReportCommand, _run, "python -m cxml.data_tools.tree_report", arguments)


if __name__ == "__main__":
    sys.exit(main())
