"""What tests of several sources of evidence share."""

from pathlib import Path

import numpy as np

from cxml import artefacts
from cxml.artefacts import FileEntry
from cxml.evidence.folder import Folder
from cxml.tree import LabelTree

TREE = LabelTree(np.arange(30, dtype=np.int32), (np.array([0, 10, 30]),))


def folder_of(path: Path) -> Folder:
    """A folder all of whose files a manifest names."""
    sums = artefacts.file_entries(str(path))
    return Folder(str(path), {name: FileEntry(name, **facts) for name, facts in sums.items()}, "Do it again.")
