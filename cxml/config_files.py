"""Read and write configs as YAML files, and find the built-in configs by name.

`--config wordnet` works wherever cxml is installed.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from cxml import storage, urls
from cxml.config import Config, config_from_dict
from cxml.errors import ConfigError, DataError
from cxml.yaml_files import read_yaml

_PACKAGE = Path(__file__).parent


def load_config(file: str) -> Config:
    """Read a config from a YAML file at a path or fsspec URL, or a built-in config by its name.

    Raises:
        ConfigError: a field is unknown or its value is invalid.
        DataError: the file is missing, is not valid YAML, or repeats a key.
    """
    return config_from_dict(read_yaml(config_file(file)))


def config_of_table(path: str) -> Config:
    """The config of a run on one table file or a folder of them, in which the run chooses all settings.

    The output is `runs/NAME`, where NAME is that of the file without its extensions, or that of the folder.

    Raises:
        ConfigError: the path is a config and not data.
    """
    if path in own_configs() or path.lower().endswith((".yaml", ".yml")):
        raise ConfigError("DATA", path, "is a config, not a table of texts and labels", f"Write --config {path}.")
    name = urls.name_of(path) or ("" if urls.scheme(path) else Path(path).resolve().name)
    output = f"runs/{name.partition('.')[0] or 'mine'}"
    return config_from_dict({"output": output, "data": {"source": {"kind": "table", "path": path}}})


def dump_config(values: object) -> str:
    """YAML text that `load_config` reads back."""
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)


def config_file(name: str) -> str:
    """The path or URL of a config.

    Args:
        name: path or fsspec URL of a YAML file, or the name of a built-in config, such as `wordnet` or `spaces/rates`.

    Raises:
        DataError: neither a file nor a built-in config has this name.
    """
    if storage.exists(name) and not storage.is_folder(name):
        return name
    own = own_configs()
    if name not in own:
        remedy = f"Give a YAML file, or a built-in config: {', '.join(own)}."
        problem = "cannot find or read this config" if urls.scheme(name) else "this config file does not exist"
        raise DataError(name, problem, remedy)
    return str(own[name])


def own_configs() -> dict[str, Path]:
    """The files of the built-in configs by name: in the installed package, or at the root of a clone."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {
                file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))
            }
    return {}
