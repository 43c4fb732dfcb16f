"""The manifest of a prepared data set: written last, checked on every read, the only file readers believe."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import dacite

from cxml import storage
from cxml.data.schema import FORMAT_VERSION, MANIFEST_FILE
from cxml.errors import DataError

PREPARE_AGAIN = "Delete the folder and prepare the data again (python -m data_tools.prepare --config ...)."
_PREPARE = "Prepare the data first: python -m data_tools.prepare --config ..."

# Names a writer makes: plain relative paths. A manifest from elsewhere must not reach outside its folder.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardInfo:
    """One Arrow file: its path inside the folder, its rows, its size in bytes, its SHA-256 in hex."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made `input_ids`: the encoder's name, a hash of its rules, padding id, vocabulary size."""

    name: str
    fingerprint: str
    pad_id: int
    vocab_size: int


@dataclass(frozen=True)
class DataManifest:
    """Everything a reader must know about a prepared data set before it opens a shard.

    Attributes:
        version: of the format.
        fingerprint: hash of everything that shaped the shards; another one means other data.
        config: the `data` section of the config that made them.
        tokenizer: what made the token ids.
        num_labels: L.
        num_features: F, terms of the tf-idf vocabulary.
        labels: the file of label names and frequencies, L rows.
        splits: shards of each split, in the order of the rows.
        source: facts about the raw data (kind, files with sizes and hashes, package versions).
        skipped: raw rows that were left out, per split and reason.
        parent: fingerprint of the data set, made from raw data, that this one was cut from, be it by way of others;
            empty if it was made from raw data itself.
    """

    version: int
    fingerprint: str
    config: dict[str, Any]
    tokenizer: TokenizerInfo
    num_labels: int
    num_features: int
    labels: ShardInfo
    splits: dict[str, tuple[ShardInfo, ...]]
    source: dict[str, Any]
    skipped: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    parent: str = ""

    def rows(self, split: str) -> int:
        """Texts in `split`."""
        return sum(shard.rows for shard in self.splits[split])

    def files(self) -> tuple[ShardInfo, ...]:
        """Every data file."""
        return (self.labels, *(shard for shards in self.splits.values() for shard in shards))

    def write(self, url: str) -> None:
        """Make the data set under `url` visible; call it when every file it names is in place."""
        storage.write_json(storage.join(url, MANIFEST_FILE), dataclasses.asdict(self))

    @classmethod
    def read(cls, url: str) -> DataManifest:
        """The manifest under `url`.

        Raises:
            DataError: there is none, it is of another version, or a field is missing, unknown or impossible.
        """
        file = storage.join(url, MANIFEST_FILE)
        try:
            values = storage.read_json(file, PREPARE_AGAIN)
        except FileNotFoundError as error:
            raise DataError(file, "there is no prepared data set here", _PREPARE) from error
        version = values.get("version")
        if version != FORMAT_VERSION:
            problem = f"has format version {version!r}, this cxml reads version {FORMAT_VERSION}"
            raise DataError(file, problem, f"Use the cxml that wrote it. {PREPARE_AGAIN}")
        try:
            manifest = dacite.from_dict(cls, values, dacite.Config(cast=[tuple], strict=True))
        except dacite.DaciteError as error:
            raise DataError(file, f"a field is wrong ({error})", PREPARE_AGAIN) from error
        for problem in _problems(manifest):
            raise DataError(file, problem, PREPARE_AGAIN)
        train_first = dict(sorted(manifest.splits.items(), key=lambda item: (item[0] != "train", item[0])))
        return dataclasses.replace(manifest, splits=train_first)


def _problems(manifest: DataManifest) -> list[str]:
    """What is impossible in a manifest of the right types."""
    found = [f"shard name {shard.file!r} is not a plain path inside the folder"
             for shard in manifest.files() if not _PLAIN_PATH.fullmatch(shard.file)]  # fmt: skip
    found += [f"{shard.file}: rows, bytes or sha256 is impossible"
              for shard in manifest.files()
              if shard.rows < 1 or shard.bytes < 1 or not _SHA256.fullmatch(shard.sha256)]  # fmt: skip
    names = [shard.file for shard in manifest.files()]
    if len(set(names)) != len(names):
        found.append("a file is named twice")
    if manifest.labels.rows != manifest.num_labels:
        found.append(f"num_labels is {manifest.num_labels}, but {manifest.labels.file} has {manifest.labels.rows} rows")
    if not manifest.splits.get("train"):
        found.append("the train split is missing")
    if manifest.num_features < 0 or not 0 <= manifest.tokenizer.pad_id < manifest.tokenizer.vocab_size:
        found.append("num_features or the tokenizer's pad_id is out of range")
    return found
