"""Adapt a trained model to a changed label set.

python -m cxml.relabel --config new.yaml --model runs/old/model

The config describes a run over the new labels, with a separate output. Its data are prepared if needed, and labels are
matched by name. Kept labels keep their rows and clusters. New labels join the closest cluster and start untrained. The
rows of removed labels are dropped. The run then has a tree and a model: evaluate it, or train another run from it
(model.start_from, model.start_with all).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml.cli import Settings, run_with_config
from cxml.console import counted
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RelabelCommand:
    """Move a trained model to a run with a changed label set. Labels in both sets keep their weights."""

    settings: Settings
    model: str = ""
    """Folder or URL of the trained model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(RelabelCommand, _relabel, "python -m cxml.relabel", arguments)


def _relabel(command: RelabelCommand) -> None:
    if not command.model:
        raise ConfigError("--model", None, "is missing", "Give the folder of a trained model, such as runs/old/model.")
    from cxml.transfer.label_set import relabel  # noqa: PLC0415  the heavy libraries

    counts = relabel(command.settings, command.model)
    print(f"{counted(counts.kept, 'label')} with their rows, {counts.added:,} new, {counts.removed:,} removed")


if __name__ == "__main__":
    sys.exit(main())
