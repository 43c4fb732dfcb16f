"""The journal of an unfinished build, in the folder `.progress` next to the tree.

`inputs.json` identifies the build. `KIND/part-00000.arrow` holds label features, a row per position.
`splits/A-B.labels` is the order of the labels at positions A..B after the split of that node, `branches/A-B.labels`
after all splits inside it, int32. Files are written atomically and end with their own checksum, so every existing file
is complete.
"""

from __future__ import annotations

import posixpath
import re
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml import artefacts, storage
from cxml.errors import DataError

FOLDER = ".progress"
_INPUTS = "inputs.json"
_VERSION = 2  # of the files and of the bounds of parts
_REMEDY = "Delete the folder .progress and build the tree again."

_PART = re.compile(r"part-([0-9]{5,9})\.arrow")
_LABELS = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\.labels")
_PARTS = pa.schema([("indices", pa.large_list(pa.int32())), ("values", pa.large_list(pa.float32()))])

Kind = Literal["pifa", "smoothed", "names"]
"""The content of a part: sums of texts, the same smoothed over the label graph, or features of names."""


class BuildJournal:
    """The finished work of the build of the tree in the folder `url`."""

    def __init__(self, url: str) -> None:
        self._folder = storage.join(url, FOLDER)

    def begin(self, fingerprint: str) -> bool:
        """Start or resume a build. BuildJournal of a build from other inputs is deleted.

        Returns:
            Whether there is progress to resume from.
        """
        wanted = {"fingerprint": fingerprint, "version": _VERSION}
        is_begun = storage.exists(storage.join(self._folder, _INPUTS))
        if is_begun and artefacts.read_object(self._folder, _INPUTS, _REMEDY) == wanted:
            return True
        self.clear()
        storage.write_json(storage.join(self._folder, _INPUTS), wanted)
        return False

    def clear(self) -> None:
        """Delete all progress, because the tree is saved or will be rebuilt."""
        storage.remove(self._folder)

    def finished_parts(self, kind: Kind) -> set[int]:
        """Numbers of the finished parts."""
        names = map(posixpath.basename, storage.list_files(storage.join(self._folder, kind), "part-"))
        return {int(match[1]) for match in map(_PART.fullmatch, names) if match}

    def save_part(self, kind: Kind, part: int, rows: sparse.csr_matrix) -> None:
        """Store label features, CSR float32 [n, F]."""
        columns = {"indices": pa.array(rows.indices, pa.int32()), "values": pa.array(rows.data, pa.float32())}
        offsets = pa.array(rows.indptr, pa.int64())
        lists = {name: pa.LargeListArray.from_arrays(offsets, values) for name, values in columns.items()}
        artefacts.write_sealed_table(self._part(kind, part), pa.table(lists))

    def read_part(self, kind: Kind, part: int, num_columns: int) -> sparse.csr_matrix:
        """The rows of a part, CSR float32 [n, F]; a local file is memory-mapped.

        Raises:
            DataError: the file is damaged, or does not contain valid label features.
        """
        file = self._part(kind, part)
        table = artefacts.read_sealed_table(file, (_PARTS,), _REMEDY)
        if not table.num_rows:
            raise DataError(file, "contains no rows", _REMEDY)
        lists = table["indices"].chunk(0), table["values"].chunk(0)
        values, indices = (column.values.to_numpy() for column in reversed(lists))
        offsets, others = (column.offsets.to_numpy() for column in lists)
        if not np.array_equal(offsets, others) or offsets[0] != 0 or not offsets[-1] == len(indices) == len(values):
            raise DataError(file, "its columns have lists of different lengths", _REMEDY)
        if len(indices) and not 0 <= indices.min() <= indices.max() < num_columns:
            raise DataError(file, f"contains features outside 0..{num_columns - 1}", _REMEDY)
        if not np.isfinite(values).all():
            raise DataError(file, "contains weights that are not finite", _REMEDY)
        return sparse.csr_matrix((values, indices, offsets), (table.num_rows, num_columns))

    def save_split(self, start: int, stop: int, labels: np.ndarray) -> None:
        """Store the labels, int32, at positions start..stop after the split of that node."""
        self._save_labels("splits", start, stop, labels)

    def save_branch(self, start: int, stop: int, labels: np.ndarray) -> None:
        """Store the labels, int32, at positions start..stop after all splits inside."""
        self._save_labels("branches", start, stop, labels)

    def read_splits(self) -> dict[tuple[int, int], np.ndarray]:
        """Labels after each finished split, by (start, stop)."""
        return self._read_labels("splits")

    def read_branches(self) -> dict[tuple[int, int], np.ndarray]:
        """Labels of each finished branch, by (start, stop)."""
        return self._read_labels("branches")

    def _part(self, kind: Kind, part: int) -> str:
        return storage.join(self._folder, kind, f"part-{part:05d}.arrow")

    def _save_labels(self, folder: str, start: int, stop: int, labels: np.ndarray) -> None:
        content = np.ascontiguousarray(labels, "<i4").tobytes()
        artefacts.write_sealed(storage.join(self._folder, folder, f"{start}-{stop}.labels"), content)

    def _read_labels(self, folder: str) -> dict[tuple[int, int], np.ndarray]:
        found = {}
        for name, content in storage.read_small_files(storage.join(self._folder, folder), ".labels").items():
            match = _LABELS.fullmatch(name)
            if match is None:  # left by a killed write
                continue
            file, start, stop = storage.join(self._folder, folder, name), int(match[1]), int(match[2])
            labels = artefacts.unseal(content, file, _REMEDY)
            if len(labels) != 4 * (stop - start):
                raise DataError(file, f"does not contain {stop - start} labels", _REMEDY)
            found[start, stop] = np.frombuffer(labels, "<i4")
        return found

    def wrong_labels(self, start: int, stop: int) -> DataError:
        """The error for saved labels that do not belong to the node at positions start..stop."""
        return DataError(self._folder, f"{start}-{stop}.labels contains labels of another node", _REMEDY)
