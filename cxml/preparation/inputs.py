"""The inputs of a prepared data set, its fingerprint, and whether an existing one matches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from tokenizers import Tokenizer

from cxml import storage, urls
from cxml.artefacts import MANIFEST
from cxml.config import Config, fingerprint_fields
from cxml.data import DataManifest, TokenizerInfo, data_url, read_label_table
from cxml.data.schema import FORMAT_VERSION
from cxml.errors import StaleArtefactError
from cxml.formats import open_source, source_facts
from cxml.formats.records import find_names
from cxml.preparation.lengths import with_length
from cxml.preparation.tokenizing import load_tokenizer


def expected_fingerprint(config: Config) -> str:
    """The fingerprint that `prepare(config)` writes to the manifest. Reads the raw files once to hash them."""
    return gather_inputs(config).fingerprint


def is_prepared(config: Config) -> bool:
    """Whether the data set of `config` exists, made from the same raw data, tokenizer and settings.

    If the raw folder does not exist (prepared on another machine), the manifest is trusted about it.

    Raises:
        StaleArtefactError: an existing data set was made from other inputs; names the differences.
    """
    url = data_url(config)
    if not storage.exists(storage.join(url, MANIFEST)):
        return False
    manifest = DataManifest.read(url)
    path = config.data.source.path
    raw_is_gone = bool(path) and not storage.exists(path)
    if not uses_labels_file(config, manifest):
        config = _without_labels_file(config)
    inputs = gather_inputs(config, manifest.source if raw_is_gone else None)
    if inputs.fingerprint not in (manifest.fingerprint, manifest.parent):
        raise _stale(url, "; ".join(_differences(manifest, inputs)) or "another version of cxml made it")
    if not raw_is_gone and _labels_were_numbers(config, manifest):
        raise _stale(url, "an earlier version of cxml read label names of digits as numbers, 0389 as 389")
    return True


def uses_labels_file(config: Config, manifest: DataManifest) -> bool:
    """False for a data set of a version without labels files, where the config only lets one be found."""
    made_before = "labels_file" not in manifest.config.get("source", {})
    return not made_before or config.data.source.labels_file != "auto" or config.data.source.unseen_labels


def _without_labels_file(config: Config) -> Config:
    source = replace(config.data.source, labels_file="")
    return replace(config, data=replace(config.data, source=source))


def _stale(url: str, reason: str) -> StaleArtefactError:
    return StaleArtefactError(
        f"{url}: this data set was made from other inputs ({reason}). It is not changed. To keep both, set output or "
        "data.directory to another folder. To replace it, run python -m cxml.train with --force prepare."
    )


def _labels_were_numbers(config: Config, manifest: DataManifest) -> bool:
    """Whether the data set was made by a version that read digits in strings as numbers, with an effect on its labels.

    That changed names such as 0389, and converted them to ids if there was a labels.txt.
    """
    source = config.data.source
    made_before = "label_ids" not in manifest.config.get("source", {})
    if not made_before or source.kind not in ("jsonl", "csv", "parquet"):
        return False
    names = read_label_table(data_url(config)).names
    if not any(name.isdecimal() for name in names):
        return False
    return find_names(source.path) is not None or names != open_source(source).label_names()


@dataclass(frozen=True)
class Inputs:
    """All inputs of the shards.

    Attributes:
        config: the relevant settings.
        tokenizer: facts that identify the tokenizer.
        tokenizer_rules: the text of its `tokenizer.json`.
        source: facts about the raw data.
    """

    config: dict[str, Any]
    tokenizer: TokenizerInfo
    tokenizer_rules: str
    source: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of all inputs."""
        # Without paths, because moved files with the same hashes are the same data.
        source = {key: value for key, value in self.config["source"].items() if key not in ("path", "labels_file")}
        if not source["label_ids"]:
            del source["label_ids"]  # as in data sets of releases without this setting
        settings = {**self.config, "source": source}
        return storage.fingerprint(FORMAT_VERSION, settings, self.tokenizer.fingerprint, self.source)


def gather_inputs(config: Config, source: dict[str, Any] | None = None) -> Inputs:
    """The inputs of `config`; `source` replaces the facts of raw files that no longer exist."""
    config = with_length(config)
    settings = fingerprint_fields(config, "data")
    # Included even if false, because a manifest without it is from a version that read digits as numbers.
    settings["source"]["label_ids"] = config.data.source.label_ids
    settings["source"]["label_separator"] = config.data.source.separator  # as in data sets of releases without `auto`
    # Named always, too: a manifest without it is of a version that knew no labels files.
    settings["source"]["labels_file"] = urls.masked(config.data.source.labels_file)
    tokenizer, info = load_tokenizer(config)
    rules = cast(Tokenizer, tokenizer.backend_tokenizer).to_str()
    return Inputs(settings, info, rules, source or source_facts(config.data.source))


def _differences(manifest: DataManifest, inputs: Inputs) -> Iterator[str]:
    for name, was, now in (
        *((f"data.{key}", manifest.config.get(key), value) for key, value in inputs.config.items()),
        ("the tokenizer", manifest.tokenizer.fingerprint[:16], inputs.tokenizer.fingerprint[:16]),
        ("the raw data", manifest.source, inputs.source),
    ):
        if was != now:
            yield f"{name} was {was}, is {now}"
