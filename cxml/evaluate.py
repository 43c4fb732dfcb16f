"""Evaluate a trained model again, as with other cut-offs.

python -m cxml.evaluate --config configs/quickstart.yaml --evaluate.top-k 1 10 100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml.cli import Settings, exit_with_message, parse_command
from cxml.console import set_up_logging
from cxml.errors import CxmlError


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Evaluate the model that cxml.train left in the output of a config, on the test split, and print the report."""

    settings: Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
    try:
        command = parse_command(EvaluateCommand, "python -m cxml.evaluate", arguments)
        set_up_logging(is_speaker=True)
        from cxml.pipeline import evaluate_again  # noqa: PLC0415  the heavy libraries

        evaluate_again(command.settings)
    except CxmlError as error:
        return exit_with_message(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
