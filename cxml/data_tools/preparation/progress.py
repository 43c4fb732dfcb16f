"""What an unfinished preparation has done, so that the next run goes on from there.

The folder `.progress` beside the shards holds `inputs.json` (what is being prepared), the blocks that the first pass
has staged, `vocabulary.arrow` and `scan.json` (its result), and a small JSON file for each block and each shard that is
whole. It is deleted after the manifest is written.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxml import storage
from cxml.data import ShardInfo
from cxml.data.writer import remove_leftovers
from cxml.data_tools.preparation.staging import read_table, write_table
from cxml.data_tools.preparation.terms import Vocabulary

FOLDER = ".progress"
_AGAIN = "Delete the folder .progress and prepare the data again."
_VOCABULARY_SCHEMA = pa.schema([("term", pa.string()), ("idf", pa.float64())])


@dataclass(frozen=True)
class Scan:
    """What the first pass over the raw data found.

    Attributes:
        rows: clean rows per split.
        skipped: raw rows left out, per split and reason.
        labels: the label table that was written.
        vocabulary: of the tf-idf.
    """

    rows: dict[str, int]
    skipped: dict[str, dict[str, int]]
    labels: ShardInfo
    vocabulary: Vocabulary


class Progress:
    """Notes about the preparation of the data set under `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = storage.join(url, FOLDER)

    def begin(self, fingerprint: str) -> bool:
        """Start or go on. What a run with other inputs left is deleted.

        Returns:
            Whether there is something to go on from.
        """
        inputs = storage.join(self._folder, "inputs.json")
        if storage.exists(inputs) and storage.read_json(inputs, _AGAIN).get("fingerprint") == fingerprint:
            remove_leftovers(self._url, keep_whole=True)
            return True
        self.clear()
        remove_leftovers(self._url)
        storage.write_json(inputs, {"fingerprint": fingerprint})
        return False

    def save_scan(self, scan: Scan) -> None:
        """Note the result of the first pass."""
        columns = [pa.array(scan.vocabulary.terms, pa.string()), pa.array(scan.vocabulary.idf)]
        write_table(self._vocabulary_file, pa.table(columns, schema=_VOCABULARY_SCHEMA))
        facts = {"rows": scan.rows, "skipped": scan.skipped, "labels": dataclasses.asdict(scan.labels)}
        storage.write_json(self._scan_file, facts)

    def load_scan(self) -> Scan | None:
        """The result of the first pass, if it was finished."""
        if not storage.exists(self._scan_file):
            return None
        facts = storage.read_json(self._scan_file, _AGAIN)
        table = read_table(self._vocabulary_file)
        vocabulary = Vocabulary(table["term"].to_pylist(), np.asarray(table["idf"]))
        return Scan(facts["rows"], facts["skipped"], ShardInfo(**facts["labels"]), vocabulary)

    def stem(self, split: str, number: int) -> str:
        """What the files of a staged block begin with."""
        return storage.join(self._folder, split, f"block-{number:05d}")

    def record_staged(self, split: str, number: int, rows: int) -> None:
        """Note that a block is staged."""
        storage.write_json(self.stem(split, number) + ".json", {"number": number, "rows": rows})

    def staged(self, split: str) -> dict[int, int]:
        """Rows of each staged block of a split, by number."""
        notes = storage.read_small_files(storage.join(self._folder, split), ".json")
        blocks = [json.loads(content) for name, content in notes.items() if name.startswith("block-")]
        return {block["number"]: block["rows"] for block in sorted(blocks, key=lambda block: block["number"])}

    def record(self, info: ShardInfo) -> None:
        """Note that a shard is whole."""
        storage.write_json(storage.join(self._folder, info.file + ".json"), dataclasses.asdict(info))

    def finished(self, split: str) -> dict[int, ShardInfo]:
        """The shards of a split that are whole, by number. One that is gone or has another size is to be made again."""
        sizes = storage.file_sizes(storage.join(self._url, split))
        notes = storage.read_small_files(storage.join(self._folder, split), ".arrow.json")
        found = {}
        for content in notes.values():
            info = ShardInfo(**json.loads(content))
            name = info.file.removeprefix(f"{split}/")
            if sizes.get(name) == info.bytes:
                found[int(name.removeprefix("shard-").removesuffix(".arrow"))] = info
        return dict(sorted(found.items()))

    def clear(self) -> None:
        """Forget everything; the data set is whole, or to be made anew."""
        storage.remove(self._folder)

    @property
    def _scan_file(self) -> str:
        return storage.join(self._folder, "scan.json")

    @property
    def _vocabulary_file(self) -> str:
        return storage.join(self._folder, "vocabulary.arrow")
