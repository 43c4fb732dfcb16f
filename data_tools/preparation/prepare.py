"""Raw texts and labels -> a prepared data set, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import PreTrainedTokenizerBase

from cxml import storage
from cxml.config import Config, config_to_dict
from cxml.console import track
from cxml.data import DataManifest, DatasetWriter, Examples, Ragged, TokenizerInfo, data_url
from cxml.data.schema import FORMAT_VERSION, MANIFEST_FILE
from cxml.errors import StaleArtefactError
from data_tools.formats import RawSplit, read_source, source_facts
from data_tools.preparation.tfidf import fit_tfidf
from data_tools.preparation.tokenizing import load_tokenizer, tokenize

_log = logging.getLogger(__name__)

# Where things lie and how results are weighed does not change the shards.
_NOT_SHAPING = ("directory", "propensity_a", "propensity_b")


def prepare(config: Config) -> str:
    """Make the prepared data set of `config` if it is not there yet, and return its URL.

    Equal inputs give byte-identical files. A killed preparation leaves no manifest, and the next one starts clean.

    Raises:
        DataError: the raw data is broken.
        ConfigError: the tokenizer or a package is missing.
        StaleArtefactError: the folder holds a data set made from other inputs.
    """
    url = data_url(config)
    if is_prepared(config):
        _log.info("Prepared data found at %s", url)
        return url
    tokenizer, _ = load_tokenizer(config)
    inputs = _gather_inputs(config)
    raw = read_source(config.data.source, config.data.on_error)
    writer = DatasetWriter(url)
    train_frequency = np.bincount(raw.splits["train"].labels.indices, minlength=len(raw.label_names))
    writer.write_labels(raw.label_names, train_frequency)
    vectorizer = fit_tfidf(raw.splits["train"].texts, config.data.tfidf_max_features)
    for name, split in raw.splits.items():
        for examples in _examples(config, name, split, tokenizer, vectorizer):
            writer.write_shard(name, examples)
    manifest = writer.commit(
        fingerprint=inputs.fingerprint,
        config=inputs.config,
        tokenizer=inputs.tokenizer,
        num_features=len(vectorizer.vocabulary_),
        source=inputs.source,
    )
    rows = ", ".join(f"{manifest.rows(split)} {split}" for split in manifest.splits)
    _log.info("Prepared %s texts, %d labels, %d terms at %s", rows, manifest.num_labels, manifest.num_features, url)
    return url


def expected_fingerprint(config: Config) -> str:
    """The manifest fingerprint that `prepare(config)` writes. Reads the raw files once, to hash them."""
    return _gather_inputs(config).fingerprint


def is_prepared(config: Config) -> bool:
    """Whether the data set of `config` is there, made from the same raw data, tokenizer and settings.

    Where the raw folder is gone (prepared on another machine), the manifest is believed about it.

    Raises:
        StaleArtefactError: a data set made from other inputs is there; says what differs.
    """
    url = data_url(config)
    if not storage.exists(storage.join(url, MANIFEST_FILE)):
        return False
    manifest = DataManifest.read(url)
    path = config.data.source.path
    raw_is_gone = bool(path) and not storage.exists(path)
    inputs = _gather_inputs(config, manifest.source if raw_is_gone else None)
    if inputs.fingerprint not in (manifest.fingerprint, manifest.parent):
        differences = "; ".join(_differences(manifest, inputs)) or "another version of cxml made it"
        raise StaleArtefactError(
            f"{url}: this data set was made from other inputs ({differences}). "
            "Delete the folder, or set data.directory to another one."
        )
    return True


@dataclass(frozen=True)
class _Inputs:
    """All that shapes the shards."""

    config: dict[str, Any]
    tokenizer: TokenizerInfo
    source: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        # The raw folder's path is left out: moved files with the same hashes are the same data.
        source = {key: value for key, value in self.config["source"].items() if key != "path"}
        settings = {**self.config, "source": source}
        return storage.fingerprint(FORMAT_VERSION, settings, self.tokenizer.fingerprint, self.source)


def _gather_inputs(config: Config, source: dict[str, Any] | None = None) -> _Inputs:
    settings = {key: value for key, value in config_to_dict(config)["data"].items() if key not in _NOT_SHAPING}
    _, tokenizer = load_tokenizer(config)
    return _Inputs(settings, tokenizer, source or source_facts(config.data.source))


def _differences(manifest: DataManifest, inputs: _Inputs) -> Iterator[str]:
    for name, was, now in (
        *((f"data.{key}", manifest.config.get(key), value) for key, value in inputs.config.items()),
        ("the tokenizer", manifest.tokenizer.fingerprint[:16], inputs.tokenizer.fingerprint[:16]),
        ("the raw data", manifest.source, inputs.source),
    ):
        if was != now:
            yield f"{name} was {was}, is {now}"


def _examples(
    config: Config, name: str, split: RawSplit, tokenizer: PreTrainedTokenizerBase, vectorizer: TfidfVectorizer
) -> Iterator[Examples]:
    """The split, one shard at a time."""
    rows, shard_rows = len(split.texts), config.data.shard_rows
    token_ids = tokenize(tokenizer, split.texts, config.data.max_length)
    token_ids = track(token_ids, rows, f"Preparing {name}")
    for start in range(0, rows, shard_rows):
        texts = split.texts[start : start + shard_rows]
        labels = split.labels[start : start + shard_rows]
        features = vectorizer.transform(texts)
        features.sort_indices()
        yield Examples(
            input_ids=Ragged.from_lists(list(islice(token_ids, shard_rows))),
            labels=Ragged(labels.indices.astype(np.int32), labels.indptr.astype(np.int64)),
            features=features,
            texts=texts if config.data.keep_text else None,
        )
