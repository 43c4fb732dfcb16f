"""Raw texts and labels -> a prepared data set, in two passes over the raw data.

1. Scan: count terms and labels of the train texts, and the rows of every split; write the label table.
2. Make: tokens, tf-idf and one shard per block of rows.

The manifest comes last. A run that was stopped is gone on with: a finished scan and finished shards are kept.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cxml.config import Config
from cxml.console import track
from cxml.data import DataManifest, ShardInfo, data_url
from cxml.data.schema import FORMAT_VERSION
from cxml.data.writer import write_labels
from cxml.errors import DataError
from data_tools.formats import SPLITS, Block, open_source
from data_tools.preparation.engines import Engine, open_engine
from data_tools.preparation.inputs import Inputs, gather_inputs, is_prepared
from data_tools.preparation.progress import Progress, Scan
from data_tools.preparation.terms import COUNTS_SCHEMA, Vocabulary, add_counts
from data_tools.preparation.work import BlockCounts, RawRows, ShardMaker, SplitEnd, count_block

_log = logging.getLogger(__name__)

_TABLES_AT_ONCE = 32  # counts of so many blocks wait to be added up
_LOG_SECONDS = 10.0


def prepare(config: Config) -> str:
    """Make the prepared data set of `config` if it is not there yet, and return its URL.

    Equal inputs give byte-identical files, whatever the engine and the number of workers. What a stopped run finished
    is used.

    Raises:
        DataError: the raw data is broken.
        ConfigError: the tokenizer or a package is missing.
        StaleArtefactError: the folder holds a data set made from other inputs.
    """
    url = data_url(config)
    progress = Progress(url)
    if is_prepared(config):
        progress.clear()
        _log.info("Prepared data found at %s", url)
        return url
    inputs = gather_inputs(config)
    if progress.begin(inputs.fingerprint):
        _log.info("Going on with what an earlier run left at %s", url)
    with open_engine(config.data, inputs.source) as engine:
        scan = progress.load_scan()
        if scan is None:
            scan = _scan(config, engine)
            progress.save_scan(scan)
        splits = _make_shards(config, engine, scan, progress)
    manifest = _manifest(inputs, scan, splits)
    manifest.write(url)
    progress.clear()
    rows = ", ".join(f"{manifest.rows(split)} {split}" for split in manifest.splits)
    _log.info("Prepared %s texts, %d labels, %d terms at %s", rows, manifest.num_labels, manifest.num_features, url)
    return url


@dataclass
class _Totals:
    """What the blocks scanned so far add up to."""

    label_frequency: np.ndarray
    rows: Counter[str] = field(default_factory=Counter)
    tables: list[pa.Table] = field(default_factory=list)

    def add(self, counts: BlockCounts) -> None:
        self.rows[counts.split] += counts.rows
        self.label_frequency[counts.label_ids] += counts.label_texts
        if counts.terms is not None:
            self.tables.append(counts.terms)
        if len(self.tables) >= _TABLES_AT_ONCE:
            self.tables = [add_counts(self.tables)]

    def terms(self) -> pa.Table:
        return add_counts(self.tables) if self.tables else COUNTS_SCHEMA.empty_table()


def _scan(config: Config, engine: Engine) -> Scan:
    """The first pass."""
    names = open_source(config.data.source).label_names()
    totals = _Totals(np.zeros(len(names), np.int64))
    skipped: dict[str, dict[str, int]] = {}
    began = last = time.monotonic()
    for item in engine.map(RawRows(config, len(names)), _make_counter):
        if isinstance(item, SplitEnd):
            skipped[item.split] = item.skipped
        else:
            totals.add(item)
        if time.monotonic() - last > _LOG_SECONDS:
            last = time.monotonic()
            _log.info("Scanned %d texts, %.0f/s", totals.rows.total(), totals.rows.total() / (last - began))
    for split in SPLITS:
        for reason, count in sorted(skipped[split].items()):
            _log.warning("%s: %d rows left out: %s", split, count, reason)
        if not totals.rows[split]:
            raise DataError(split, "no text is left in this split", "Check the raw files.")
    vocabulary = Vocabulary.choose(totals.terms(), totals.rows["train"], config.data.tfidf_max_features)
    labels = write_labels(data_url(config), names, totals.label_frequency)
    return Scan({split: totals.rows[split] for split in SPLITS}, skipped, labels, vocabulary)


def _make_counter() -> Callable[[Block], BlockCounts]:
    return count_block


def _make_shards(config: Config, engine: Engine, scan: Scan, progress: Progress) -> dict[str, tuple[ShardInfo, ...]]:
    """The second pass: the shards that are missing; then all of them."""
    numbers = {split: range(-(-rows // config.data.shard_rows)) for split, rows in scan.rows.items()}
    done = {split: frozenset(progress.finished(split)) for split in numbers}
    missing = sum(len(numbers[split]) - len(done[split]) for split in numbers)
    if missing:
        made = engine.map(RawRows(config, scan.labels.rows, done), ShardMaker, config)
        for _ in track((item for item in made if not isinstance(item, SplitEnd)), missing, "Making shards"):
            pass
    found = {split: progress.finished(split) for split in numbers}
    for split, shards in found.items():
        if list(shards) != list(numbers[split]) or sum(info.rows for info in shards.values()) != scan.rows[split]:
            remedy = "Leave the raw files as they are while they are prepared; delete the folder and start again."
            raise DataError(data_url(config), f"split {split} has other shards than the scan counted", remedy)
    return {split: tuple(shards.values()) for split, shards in found.items()}


def _manifest(inputs: Inputs, scan: Scan, splits: dict[str, tuple[ShardInfo, ...]]) -> DataManifest:
    return DataManifest(
        version=FORMAT_VERSION,
        fingerprint=inputs.fingerprint,
        config=inputs.config,
        tokenizer=inputs.tokenizer,
        num_labels=scan.labels.rows,
        num_features=len(scan.vocabulary.terms),
        labels=scan.labels,
        splits=splits,
        source=inputs.source,
        skipped={split: reasons for split, reasons in scan.skipped.items() if reasons},
    )
