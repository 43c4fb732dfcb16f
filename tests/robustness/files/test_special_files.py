"""Only regular files inside the folder of a tree, checkpoint, model or export are opened; links and pipes are refused.

Oracle: real folders in which one file is replaced.
"""

import os
import shutil

import pytest

from cxml.checkpoint import ShardReader, load_model
from cxml.errors import DataError
from cxml.parallel import Exchange
from cxml.prediction import Predictor
from cxml.tree import LabelTree

FILES = [
    ("tree", "manifest.json"), ("tree", "tree.arrow"),
    ("checkpoint", "commit.json"), ("checkpoint", "manifest.json"), ("checkpoint", "*.safetensors"),
    ("model", "manifest.json"), ("model", "*.safetensors"),
    ("export", "manifest.json"), ("export", "config.json"), ("export", "tokenizer.json"), ("export", "*.safetensors"),
    ("export", "tree/manifest.json"),
]  # fmt: skip


def read_checkpoint(folder):
    reader = ShardReader(folder)
    for name in reader.manifest.tensors:
        reader.tensor(name)


@pytest.fixture
def use(folders):
    """Reads all of a folder of a kind."""
    tree = LabelTree.load(str(folders["tree"]))
    return {
        "tree": LabelTree.load,
        "checkpoint": read_checkpoint,
        "model": lambda folder: load_model(folder, tree, Exchange(is_alone=True)),
        "export": Predictor.from_pretrained,
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", ["link", "link inside", "pipe", "device"])
@pytest.mark.parametrize(("kind", "pattern"), FILES)
def test_a_special_file_is_refused_and_named(folders, use, tmp_path, kind, pattern, special):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    file = sorted(folder.glob(pattern))[0]
    kept = file.rename(file.with_name("kept") if special == "link inside" else tmp_path / "kept")
    if special == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if special == "device" else kept)
    with pytest.raises(DataError, match=rf"{file.name}: {file.name} is a (link|pipe), expected a regular file"):
        use[kind](str(folder))
