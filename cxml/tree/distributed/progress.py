"""What an unfinished build has done, in the folder `.progress` beside the tree.

`inputs.json` says what is built. `KIND/part-00000.arrow` holds label features, a row per position. `splits/A-B.npy` is
the order of the labels at positions A..B after the split of that node, `branches/A-B.npy` after all splits inside it.
Every file appears whole or not at all, so one that is there is finished.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml import storage
from cxml.errors import DataError

FOLDER = ".progress"
_VERSION = 1  # of the files, and of where parts are cut
_REMEDY = "Delete the folder .progress and build the tree again."

Kind = Literal["pifa", "smoothed", "names"]
"""What a part holds: sums of texts, those smoothed over the label graph, features of names."""


class Progress:
    """Notes about the build of the tree in the folder `url`."""

    def __init__(self, url: str) -> None:
        self._folder = storage.join(url, FOLDER)

    def begin(self, fingerprint: str) -> bool:
        """Start or go on. What a build from other inputs left is deleted.

        Returns:
            Whether there is something to go on from.
        """
        inputs, wanted = storage.join(self._folder, "inputs.json"), {"fingerprint": fingerprint, "version": _VERSION}
        if storage.exists(inputs) and storage.read_json(inputs, _REMEDY) == wanted:
            return True
        self.clear()
        storage.write_json(inputs, wanted)
        return False

    def clear(self) -> None:
        """Forget everything; the tree is saved, or to be built anew."""
        storage.remove(self._folder)

    def finished_parts(self, kind: Kind) -> set[int]:
        """Numbers of the parts that are there."""
        files = storage.list_files(storage.join(self._folder, kind), "part-")
        return {int(file[-len("00000.arrow") : -len(".arrow")]) for file in files}

    def save_part(self, kind: Kind, part: int, rows: sparse.csr_matrix) -> None:
        """Keep label features, CSR float32 [n, F]."""
        columns = {"indices": pa.array(rows.indices, pa.int32()), "values": pa.array(rows.data, pa.float32())}
        offsets = pa.array(rows.indptr, pa.int64())
        lists = {name: pa.LargeListArray.from_arrays(offsets, values) for name, values in columns.items()}
        table = pa.table(lists)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        storage.write_atomic(self._part(kind, part), sink.getvalue().to_pybytes())

    def read_part(self, kind: Kind, part: int, num_columns: int) -> sparse.csr_matrix:
        """The rows of a part, CSR float32 [n, F]; a local file is mapped, not read."""
        file = self._part(kind, part)
        path = storage.local_path(file)
        try:
            source = pa.memory_map(str(path)) if path else pa.BufferReader(storage.read_bytes(file))
            (batch,) = pa.ipc.open_file(source).read_all().to_batches()
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise DataError(file, f"cannot be read ({error})", _REMEDY) from error
        indices, values = batch.column("indices"), batch.column("values")
        arrays = (column.to_numpy() for column in (values.values, indices.values, indices.offsets))
        return sparse.csr_matrix(tuple(arrays), (batch.num_rows, num_columns))

    def save_split(self, start: int, stop: int, labels: np.ndarray) -> None:
        """Keep the labels, int32, at positions start..stop after the split of that node."""
        self._save_labels("splits", start, stop, labels)

    def save_branch(self, start: int, stop: int, labels: np.ndarray) -> None:
        """Keep the labels, int32, at positions start..stop after all splits inside."""
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
        stream = io.BytesIO()
        np.save(stream, labels)
        storage.write_atomic(storage.join(self._folder, folder, f"{start}-{stop}.npy"), stream.getvalue())

    def _read_labels(self, folder: str) -> dict[tuple[int, int], np.ndarray]:
        found = {}
        for name, content in storage.read_small_files(storage.join(self._folder, folder), ".npy").items():
            if name.startswith("."):  # a killed write's
                continue
            start, stop = map(int, name.removesuffix(".npy").split("-"))
            found[start, stop] = np.load(io.BytesIO(content))
        return found
