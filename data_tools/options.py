"""Command lines of the tools that take a prepared data set instead of a config."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from cxml.cli import exit_with_message
from cxml.console import set_up_logging
from cxml.errors import CxmlError

_Command = TypeVar("_Command")


def run_tool(
    command: type[_Command], action: Callable[[_Command], None], program: str, arguments: Sequence[str] | None = None
) -> int:
    """Read the options of a dataclass `command` and act on them.

    Returns:
        The exit code: 0, or 2 if something was refused or failed in a way that cxml names.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = tyro.cli(command, prog=program, description=command.__doc__, args=words)
    try:
        set_up_logging(is_speaker=True)
        action(options)
    except CxmlError as error:
        return exit_with_message(error)
    return 0
