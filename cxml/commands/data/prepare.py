"""Prepare the data set of a config: raw texts and labels in, Arrow shards and a manifest out.

python -m cxml.data_tools.prepare --config configs/quickstart.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml import urls
from cxml.cli import Settings, run_with_config


@dataclass(frozen=True, kw_only=True)
class PrepareCommand:
    """Prepare the data set of a config: convert raw texts and labels to Arrow shards with a manifest.

    Only the `data` section, `model.encoder` and `output` are used. An existing data set is kept; if it was prepared
    from other inputs, the command refuses it. `python -m cxml.train` runs the same stage.
    """

    settings: Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(PrepareCommand, _run, "python -m cxml.data_tools.prepare", arguments)


def _run(command: PrepareCommand) -> None:
    from cxml.preparation import prepare  # noqa: PLC0415  heavy

    print(urls.masked(prepare(command.settings)))


if __name__ == "__main__":
    sys.exit(main())
