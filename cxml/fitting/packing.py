"""A model as bytes: the files of its export by name, for pickles and other formats that cannot refer to a folder.

They are read like an exported folder: safetensors, Arrow and JSON, with checksums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cxml import storage
from cxml.prediction import Predictor


def pack(predictor: Predictor) -> dict[str, bytes]:
    """The files of `predictor.save_pretrained`, by relative path."""
    with tempfile.TemporaryDirectory(prefix="cxml-pack-") as parent:
        folder = Path(parent, "model")
        predictor.save_pretrained(folder)
        return {name: (folder / name).read_bytes() for name in storage.file_sizes(str(folder))}


def unpack(files: Mapping[str, bytes]) -> Predictor:
    """Load the model from its files onto this machine's device.

    Raises:
        DataError: a file is missing or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="cxml-unpack-") as folder:
        for name, content in files.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return Predictor.from_pretrained(folder)
