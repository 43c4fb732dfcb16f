"""The progress of an unfinished preparation, which the next run resumes.

The folder `.progress` next to the shards contains `inputs.json` (identifies the preparation), the blocks staged by the
first pass, `vocabulary.arrow` and `scan.json` (its result), and a small JSON file for each finished block and shard. It
is deleted after the manifest is written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cxml import artefacts, storage
from cxml.data import VALIDATION, ShardInfo
from cxml.data.schema import VOCABULARY_SCHEMA
from cxml.data.terms import Vocabulary
from cxml.data.writer import remove_leftovers
from cxml.errors import DataError
from cxml.formats import SPLITS

FOLDER = ".progress"
_VERSION = 2  # of the files here
_BLOCK = re.compile(r"block-([0-9]{5,9})\.json")
_SHARD = re.compile(r"shard-([0-9]{5,9})\.arrow\.json")
_INPUTS, _SCAN = "inputs.json", "scan.json"
_AGAIN = "Delete the folder .progress and prepare the data again."


@dataclass(frozen=True)
class ScanResult:
    """The result of the first pass over the raw data.

    Attributes:
        rows: valid rows per split.
        skipped: number of skipped raw rows, per split and reason.
        labels: file entry of the label table.
        vocabulary: vocabulary of the tf-idf.
    """

    rows: dict[str, int]
    skipped: dict[str, dict[str, int]]
    labels: ShardInfo
    vocabulary: Vocabulary


@dataclass(frozen=True)
class _ScanFacts:
    """The content of `scan.json`."""

    rows: dict[str, int]
    skipped: dict[str, dict[str, int]]
    labels: ShardInfo


@dataclass(frozen=True)
class _BlockRecord:
    """The content of the note of a staged block."""

    number: int
    rows: int


class PreparationJournal:
    """The progress of the preparation of the data set under `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = storage.join(url, FOLDER)

    def begin(self, fingerprint: str) -> bool:
        """Start or resume. Progress of a run with other inputs is deleted.

        Returns:
            Whether there is progress to resume from.
        """
        wanted = {"fingerprint": fingerprint, "version": _VERSION}
        is_begun = storage.exists(storage.join(self._folder, _INPUTS))
        if is_begun and artefacts.read_object(self._folder, _INPUTS, _AGAIN) == wanted:
            remove_leftovers(self._url, keep_whole=True)
            return True
        self.clear()
        remove_leftovers(self._url)
        storage.write_json(storage.join(self._folder, _INPUTS), wanted)
        return False

    def save_scan(self, scan: ScanResult) -> None:
        """Store the result of the first pass."""
        artefacts.write_sealed_table(self._vocabulary_file, scan.vocabulary.table())
        facts = {"rows": scan.rows, "skipped": scan.skipped, "labels": dataclasses.asdict(scan.labels)}
        storage.write_json(storage.join(self._folder, _SCAN), facts)

    def load_scan(self) -> ScanResult | None:
        """The result of the first pass, if it has finished.

        Raises:
            DataError: a file is damaged, or inconsistent with the staged blocks.
        """
        file = storage.join(self._folder, _SCAN)
        if not storage.exists(file):
            return None
        facts = artefacts.parse_as(_ScanFacts, artefacts.read_object(self._folder, _SCAN, _AGAIN), file, _AGAIN)
        staged = {split: sum(self.staged(split).values()) for split in (*SPLITS, VALIDATION)}
        if facts.rows != {split: rows for split, rows in staged.items() if rows or split in SPLITS}:
            raise DataError(file, "its rows differ from the staged blocks", _AGAIN)
        if problem := artefacts.entry_problem(facts.labels):
            raise DataError(file, problem, _AGAIN)
        artefacts.verify_file(self._url, facts.labels, _AGAIN)
        table = artefacts.read_sealed_table(self._vocabulary_file, (VOCABULARY_SCHEMA,), _AGAIN)
        return ScanResult(facts.rows, facts.skipped, facts.labels, Vocabulary.of_table(table))

    def stem(self, split: str, number: int) -> str:
        """The common prefix of the files of a staged block."""
        return storage.join(self._folder, split, f"block-{number:05d}")

    def record_staged(self, split: str, number: int, rows: int) -> None:
        """Record a staged block."""
        storage.write_json(self.stem(split, number) + ".json", {"number": number, "rows": rows})

    def staged(self, split: str) -> dict[int, int]:
        """Rows of each staged block of a split, by number. Raises `DataError` if a note is damaged."""
        rows = {}
        for number, file, values in self._notes(split, _BLOCK):
            note = artefacts.parse_as(_BlockRecord, values, file, _AGAIN)
            if note.number != number or note.rows < 1:
                raise DataError(file, f"is about the {note.rows} rows of block {note.number}", _AGAIN)
            rows[number] = note.rows
        return dict(sorted(rows.items()))

    def record(self, info: ShardInfo) -> None:
        """Record a finished shard."""
        storage.write_json(storage.join(self._folder, info.file + ".json"), dataclasses.asdict(info))

    def finished(self, split: str) -> dict[int, ShardInfo]:
        """The finished shards of a split, by number. Missing shards and shards of another size are made again.

        Raises:
            DataError: a note is damaged.
        """
        sizes = storage.file_sizes(storage.join(self._url, split))
        found = {}
        for number, file, values in self._notes(split, _SHARD):
            info = artefacts.parse_as(ShardInfo, values, file, _AGAIN)
            name = f"shard-{number:05d}.arrow"
            if info.file != f"{split}/{name}" or artefacts.entry_problem(info):
                raise DataError(file, "is about another file", _AGAIN)
            if sizes.get(name) == info.bytes:
                found[number] = info
        return dict(sorted(found.items()))

    def _notes(self, split: str, names: re.Pattern[str]) -> Iterator[tuple[int, str, dict[str, object]]]:
        """Number, file and values of each note of a split with a matching name; killed writes leave other files."""
        folder = storage.join(self._folder, split)
        for name, content in storage.read_small_files(folder, ".json").items():
            if match := names.fullmatch(name):
                file = storage.join(folder, name)
                yield int(match[1]), file, artefacts.parse_object(content, file, _AGAIN)

    def clear(self) -> None:
        """Delete all progress, because the data set is complete or will be made again."""
        storage.remove(self._folder)

    @property
    def _vocabulary_file(self) -> str:
        return storage.join(self._folder, "vocabulary.arrow")
