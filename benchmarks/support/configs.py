"""Reads the config of a benchmark that takes the options of `python -m cxml.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxml.cli import Settings, parse_command
from cxml.config import Config


@dataclass(frozen=True, kw_only=True)
class _Benchmark:
    """Options of `python -m cxml.train`."""

    settings: Settings


def config_of(program: str, words: Sequence[str]) -> Config:
    """Config of a command line; errors in it end the program, as in `python -m cxml.train`."""
    return parse_command(_Benchmark, program, words).settings
