"""Build a run's label tree from the features of a trained model, to continue training with it.

python -m cxml.recluster --config mine.yaml --output runs/second --model runs/first
python -m cxml.train --config mine.yaml --output runs/second --model.start-from runs/first/model

The first tree is built before training, from the words of the texts. A model trained with it has better features, and
this command clusters the labels again by them. The second run starts with the encoder of the first one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml.cli import Settings, run_with_config
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReclusterCommand:
    """Build a run's label tree from a trained model's features of the train texts."""

    settings: Settings
    model: str = ""
    """Trained model: a run's output, its model folder, a checkpoint or an exported folder; path or fsspec URL."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(ReclusterCommand, _recluster, "python -m cxml.recluster", arguments)


def _recluster(command: ReclusterCommand) -> None:
    if not command.model:
        raise ConfigError("--model", None, "is missing", "Give a trained model, such as runs/first.")
    from cxml.transfer.learnt_tree import recluster  # noqa: PLC0415  the heavy libraries

    tree = recluster(command.settings, command.model)
    print(f"Label tree of {' > '.join(f'{size:,}' for size in tree.level_sizes)} nodes, the labels last")


if __name__ == "__main__":
    sys.exit(main())
