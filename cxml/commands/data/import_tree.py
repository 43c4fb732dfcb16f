"""Import a label tree from another tool: PECOS's cluster chain, or CascadeXML's pickled clusters.

python -m cxml.data_tools.import_tree --config configs/quickstart.yaml --source pecos/clusters
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml.cli import Settings, run_with_config


@dataclass(frozen=True, kw_only=True)
class ImportTreeCommand:
    """Save the label tree of another tool as the tree of a run. The run's data set must be prepared.

    The levels with the sizes in tree.level_sizes are imported.
    """

    settings: Settings
    source: str = ""
    """Folder or fsspec URL of a PECOS cluster chain (C0.npz, C1.npz, ...), or a file with CascadeXML's pickled
    clusters. The pickle reader accepts only lists and arrays of integers, and runs no code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(ImportTreeCommand, _run, "python -m cxml.data_tools.import_tree", arguments)


def _run(command: ImportTreeCommand) -> None:
    from cxml.preparation.tree_import import import_tree  # noqa: PLC0415  heavy

    tree = import_tree(command.settings, command.source)
    print(f"Label tree of {' > '.join(f'{size:,}' for size in tree.level_sizes)} nodes, the labels last")


if __name__ == "__main__":
    sys.exit(main())
