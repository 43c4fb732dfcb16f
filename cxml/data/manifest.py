"""The manifest of a prepared data set, which is written last and checked on every read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cxml import artefacts, storage
from cxml.config import Config
from cxml.data.schema import FORMAT_VERSION
from cxml.errors import DataError

PREPARE_AGAIN = "Delete the folder and prepare the data again (python -m cxml.data_tools.prepare --config ...)."
_PREPARE = "Prepare the data first: python -m cxml.data_tools.prepare --config ..."

_MOST_IDS = 1 << 31  # ids are int32


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
    """The metadata of a prepared data set.

    Attributes:
        version: version of the format.
        fingerprint: hash of all inputs of the shards.
        config: the `data` section of the config that made them.
        tokenizer: the tokenizer that made the token ids.
        num_labels: L.
        num_features: F, terms of the tf-idf vocabulary.
        labels: the file of label names and frequencies, L rows.
        splits: shards of each split, in row order.
        source: facts about the raw data (kind, files with sizes and hashes, package versions).
        skipped: number of skipped raw rows, per split and reason.
        parent: fingerprint of the data set, made from raw data, that this one was derived from, directly or not; empty
            if it was made from raw data itself.
        vocabulary: the file of the tf-idf's words, F rows; None in data sets of earlier releases.
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
    vocabulary: ShardInfo | None = None

    def rows(self, split: str) -> int:
        """Texts in `split`."""
        return sum(shard.rows for shard in self.splits[split])

    def files(self) -> tuple[ShardInfo, ...]:
        """Every data file."""
        vocabulary = () if self.vocabulary is None else (self.vocabulary,)
        return (self.labels, *vocabulary, *(shard for shards in self.splits.values() for shard in shards))

    def write(self, url: str) -> None:
        """Commit the data set under `url`, after all of its files are written."""
        artefacts.write_manifest(url, dataclasses.asdict(self))

    @classmethod
    def read(cls, url: str) -> DataManifest:
        """The manifest under `url`.

        Raises:
            DataError: it is missing or has another version, or a field is missing, unknown or invalid.
        """
        file = storage.join(url, artefacts.MANIFEST)
        try:
            values = artefacts.read_manifest(
                url, f"Use the version of cxml that wrote it. {PREPARE_AGAIN}", version=FORMAT_VERSION
            )
        except FileNotFoundError as error:
            raise DataError(file, "the prepared data set does not exist", _PREPARE) from error
        manifest = artefacts.parse_as(cls, values, file, PREPARE_AGAIN)
        for problem in _problems(manifest):
            raise DataError(file, problem, PREPARE_AGAIN)
        train_first = dict(sorted(manifest.splits.items(), key=lambda item: (item[0] != "train", item[0])))
        return dataclasses.replace(manifest, splits=train_first)


def _problems(manifest: DataManifest) -> list[str]:
    """The problems of a manifest whose types are right."""
    found = [problem for shard in manifest.files() if (problem := artefacts.entry_problem(shard))]
    found += [f"{shard.file}: rows is out of range" for shard in manifest.files() if not 0 < shard.rows <= shard.bytes]
    names = [shard.file for shard in manifest.files()]
    if len(set(names)) != len(names):
        found.append("a file is listed twice")
    if manifest.labels.rows != manifest.num_labels:
        found.append(f"num_labels is {manifest.num_labels}, but {manifest.labels.file} has {manifest.labels.rows} rows")
    if manifest.vocabulary is not None and manifest.vocabulary.rows != manifest.num_features:
        found.append(
            f"num_features is {manifest.num_features}, but the vocabulary has {manifest.vocabulary.rows} words"
        )
    if not manifest.splits.get("train"):
        found.append("the train split is missing")
    if not all(manifest.splits.values()):
        found.append("a split has no shards")
    if not 0 <= manifest.num_features <= _MOST_IDS or not 0 < manifest.tokenizer.vocab_size <= _MOST_IDS:
        found.append("num_features or the tokenizer's vocab_size is out of range")
    if not 0 <= manifest.tokenizer.pad_id < manifest.tokenizer.vocab_size:
        found.append("the tokenizer's pad_id is out of range")
    return found


def data_url(config: Config) -> str:
    """Folder of the prepared data set: `data.directory`, or `data` inside the run's output."""
    return config.data.directory or storage.join(config.output, "data")
