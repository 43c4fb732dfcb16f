"""Reads pyproject.toml."""

from pathlib import Path
from typing import Any

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest installs it
    import tomli as tomllib


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    return tomllib.loads(file.read_text())["project"]
