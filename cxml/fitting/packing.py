"""A model as bytes: the files of its export, by name, for what takes values and not folders, such as pickles.

They are read as an exported folder is: safetensors, Arrow and JSON, with checksums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cxml import storage
from cxml.prediction import Predictor


def pack(predictor: Predictor) -> dict[str, bytes]:
    """The files of `predictor.save_pretrained`, by path inside of the folder."""
    with tempfile.TemporaryDirectory(prefix="cxml-pack-") as parent:
        folder = Path(parent, "model")
        predictor.save_pretrained(folder)
        return {name: (folder / name).read_bytes() for name in storage.file_sizes(str(folder))}


def unpack(files: Mapping[str, bytes]) -> Predictor:
    """The model whose files these are, on this machine's device.

    Raises:
        DataError: a file is missing or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="cxml-unpack-") as folder:
        for name, content in files.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return Predictor.from_pretrained(folder)
