"""The configs that come with cxml, by name: `--config wordnet` works wherever cxml is installed."""

from __future__ import annotations

from pathlib import Path

from cxml import storage, urls
from cxml.errors import DataError

_PACKAGE = Path(__file__).parent


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
