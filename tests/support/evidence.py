"""The label tree and folders that tests of several evidence sources share."""

from pathlib import Path

import numpy as np

from cxml import artefacts
from cxml.artefacts import FileEntry
from cxml.evidence.folder import Folder
from cxml.tree import LabelTree

TREE = LabelTree(np.arange(30, dtype=np.int32), (np.array([0, 10, 30]),))


def folder_of(path: Path) -> Folder:
    """The folder at `path`, with a manifest entry for each of its files."""
    sums = artefacts.file_entries(str(path))
    return Folder(str(path), {name: FileEntry(name, **facts) for name, facts in sums.items()}, "Do it again.")
