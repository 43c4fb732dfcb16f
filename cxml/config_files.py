"""Configs as YAML files: read, written, and those that come with cxml by name.

`--config wordnet` works wherever cxml is installed.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from cxml import storage, urls
from cxml.config import Config, config_from_dict
from cxml.errors import DataError
from cxml.yaml_files import read_yaml

_PACKAGE = Path(__file__).parent


def load_config(file: str) -> Config:
    """Read a config from a YAML file at a path or fsspec URL, or one of cxml's own by its name.

    Raises:
        ConfigError: a field is unknown or its value impossible.
        DataError: the file is missing or no YAML, or says something twice.
    """
    return config_from_dict(read_yaml(config_file(file)))


def dump_config(values: object) -> str:
    """YAML text that `load_config` reads back."""
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)


def config_file(name: str) -> str:
    """The place of a config.

    Args:
        name: path or fsspec URL of a YAML file, or the name of one of cxml's own, such as `wordnet` or `spaces/rates`.

    Raises:
        DataError: there is neither such a file nor such a name.
    """
    if storage.exists(name) and not storage.is_folder(name):
        return name
    own = own_configs()
    if name not in own:
        remedy = f"Name a YAML file, or one of cxml's own configs: {', '.join(own)}."
        problem = "this config cannot be found or reached" if urls.scheme(name) else "there is no such config file"
        raise DataError(name, problem, remedy)
    return str(own[name])


def own_configs() -> dict[str, Path]:
    """The files of cxml's own configs by name: in the package where it is installed, at the root in a clone."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {
                file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))
            }
    return {}
