"""Raw texts and labels -> a prepared data set, in two passes over blocks of rows.

1. Scan: read the raw files once; tokenise and stage each block; add up the terms and labels of the train texts.
2. Make: weigh the terms of each staged block and write its shard.

The manifest is written last. An interrupted preparation resumes, reusing staged blocks and finished shards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cxml import storage
from cxml.config import Config
from cxml.console import counted
from cxml.data import DataManifest, ShardInfo, data_url, read_label_table
from cxml.data.schema import FORMAT_VERSION
from cxml.data.terms import Vocabulary, add_counts
from cxml.data.writer import remove_leftovers, write_labels, write_vocabulary
from cxml.errors import DataError
from cxml.formats import TitledReader, find_labels_file, no_texts, open_source, require_texts
from cxml.formats.reader import show
from cxml.preparation.choice import open_engine
from cxml.preparation.engines import PreparationEngine
from cxml.preparation.inputs import Inputs, gather_inputs, is_prepared, uses_labels_file
from cxml.preparation.journal import FOLDER, PreparationJournal, ScanResult
from cxml.preparation.lengths import with_length
from cxml.preparation.staging import read_label_counts, read_term_counts
from cxml.preparation.work import BlockStager, RawRows, ShardMaker, SplitEnd, Ticket, Tickets
from cxml.progress import meter, track
from cxml.storage.locks import locked

_log = logging.getLogger(__name__)

_TABLES_AT_ONCE = 32  # blocks whose counts are added up together
_NAMES_SHOWN = 3


def prepare(config: Config, *, has_test: bool = True) -> str:
    """Prepare the data set of `config` if it does not exist, and return its URL.

    Args:
        config: the run's config.
        has_test: whether the user gave the test texts; the log leaves out those that only complete the data set.

    Equal inputs give byte-identical files for every engine and number of workers. An interrupted preparation resumes.
    If several runs share the folder, one prepares the data and the others wait.

    Raises:
        DataError: the raw data is broken.
        ConfigError: the tokenizer or a package is missing.
        StaleArtefactError: the folder contains a data set made from other inputs.
    """
    url = data_url(config)
    if not is_prepared(config):
        with locked(url, wait=True):
            if not is_prepared(config):
                _prepare(config, url)
                _log_summary(url, has_test=has_test)
                return url
    PreparationJournal(url).clear()
    _log.info("Prepared data found at %s", url)
    _tell_unused_labels_file(config, url)
    return url


def _tell_unused_labels_file(config: Config, url: str) -> None:
    """Log that a data set of an earlier version has no titles although its raw folder has a labels file."""
    if not uses_labels_file(config, DataManifest.read(url)) and (file := find_labels_file(config.data.source)):
        _log.info(
            "An earlier version of cxml prepared these data without the labels file %s. To add its titles, run "
            "python -m cxml.train with --force prepare", file,
        )  # fmt: skip


def _prepare(config: Config, url: str) -> None:
    journal = PreparationJournal(url)
    source = open_source(config.data.source)
    config = with_length(config, source)
    inputs = gather_inputs(config)
    if journal.begin(inputs.fingerprint):
        _log.info("Resuming the preparation at %s", url)
    with open_engine(config.data, inputs.source) as engine:
        scan = journal.load_scan()
        if scan is None:
            scan = _scan(config, source, inputs.tokenizer_rules, engine, journal)
            journal.save_scan(scan)
        splits = _make_shards(config, engine, scan, journal)
    manifest = _manifest(url, inputs, scan, splits)
    remove_leftovers(url, keep_whole=True)  # of workers that were killed and replaced
    manifest.write(url)
    journal.clear()


def _log_summary(url: str, *, has_test: bool) -> None:
    """Log the size and the labels of a new data set."""
    manifest, labels = DataManifest.read(url), read_label_table(url)
    shown = [split for split in manifest.splits if has_test or split != "test"]
    counts = [
        *(counted(manifest.rows(split), f"{split} text") for split in shown),
        counted(manifest.num_labels, "label"), counted(manifest.num_features, "term"),
    ]  # fmt: skip
    _log.info("Prepared %s at %s", ", ".join(counts), url)
    _log.info("%s", describe_labels(labels.shown, labels.frequency, manifest.rows("train")))


def describe_labels(names: Sequence[str], frequency: np.ndarray, num_texts: int) -> str:
    """A line about the labels: their number, the most frequent ones, and the mean number per text.

    Args:
        names: displayed names of the L labels.
        frequency: number of train texts of each label, int64 [L].
        num_texts: number of train texts.
    """
    most_frequent = np.argsort(-frequency, kind="stable")[:_NAMES_SHOWN].tolist()
    shown = ", ".join(f"{show(names[label])} ({counted(int(frequency[label]), 'text')})" for label in most_frequent)
    unseen = int((frequency == 0).sum())
    without = f"; {counted(unseen, 'label')} without a train text" if unseen else ""
    return f"Labels: {len(names):,}, such as {shown}; {frequency.sum() / num_texts:.1f} per train text{without}"


def _scan(
    config: Config, source: TitledReader, tokenizer_rules: str, engine: PreparationEngine, journal: PreparationJournal
) -> ScanResult:
    """The first pass: stage missing blocks, then add up the counts of all blocks."""
    from cxml.settings import fit_to_labels  # noqa: PLC0415 - it imports transformers, which workers need not wait for

    names = source.label_names()
    require_texts(source, config.data.source.path)
    fit_to_labels(config, len(names))  # reports an invalid tree before hours of tokenising
    done = {split: journal.staged(split) for split in source.splits}
    blocks_done = {split: frozenset(blocks) for split, blocks in done.items()}
    raw_rows = RawRows(source, config.data, len(names), blocks_done)
    skipped: dict[str, dict[str, int]] = {}
    with meter(f"Tokenising, in blocks of {config.data.shard_rows:,} texts", None) as advance:
        for item in engine.map(raw_rows, BlockStager, config, tokenizer_rules, engine.threads_per_worker):
            if isinstance(item, SplitEnd):
                skipped[item.split] = item.skipped
            else:
                advance(1)
    rows = {split: sum(journal.staged(split).values()) for split in source.splits}
    for split in source.splits:
        for reason, count in sorted(skipped[split].items()):
            _log.warning("%s: skipped %s: %s", split, counted(count, "row"), reason)
        if not rows[split]:
            raise no_texts(split, config.data.source.path)
    frequency, vocabulary = _total_counts(config, journal, len(names), rows["train"])
    labels = write_labels(data_url(config), names, frequency, source.label_titles())
    return ScanResult(rows, skipped, labels, vocabulary)


def _total_counts(
    config: Config, journal: PreparationJournal, num_labels: int, num_texts: int
) -> tuple[np.ndarray, Vocabulary]:
    """Texts of each label, int64 [L], and the vocabulary, from the train split only."""
    frequency = np.zeros(num_labels, np.int64)
    tables: list[pa.Table] = []
    for number in journal.staged("train"):
        stem = journal.stem("train", number)
        labels, texts = read_label_counts(stem, num_labels)
        frequency[labels] += texts
        tables.append(read_term_counts(stem))
        if len(tables) == _TABLES_AT_ONCE:
            tables = [add_counts(tables)]
    return frequency, Vocabulary.choose(add_counts(tables), num_texts, config.data.tfidf_max_features)


def _make_shards(
    config: Config, engine: PreparationEngine, scan: ScanResult, journal: PreparationJournal
) -> dict[str, tuple[ShardInfo, ...]]:
    """The second pass: write missing shards. Returns all shards."""
    rows = config.data.shard_rows
    numbers = {split: range(-(-total // rows)) for split, total in scan.rows.items()}
    for split, expected in numbers.items():
        if expected != range(len(journal.staged(split))):
            raise _other_shards(config, split)
    missing = {
        split: tuple(Ticket(split, number, number * rows) for number in sorted({*numbers[split]} - {*done}))
        for split in numbers
        for done in [journal.finished(split)]
    }
    count = sum(map(len, missing.values()))
    if count:
        for _ in track(engine.map(Tickets(missing), ShardMaker, config), count, "Making shards"):
            pass
    found = {split: journal.finished(split) for split in numbers}
    for split, shards in found.items():
        if list(shards) != list(numbers[split]) or sum(info.rows for info in shards.values()) != scan.rows[split]:
            raise _other_shards(config, split)
    return {split: tuple(shards.values()) for split, shards in found.items()}


def _other_shards(config: Config, split: str) -> DataError:
    progress_url = storage.join(data_url(config), FOLDER)
    remedy = f"Delete {progress_url}, and run again while nothing else changes the raw files or this folder."
    return DataError(data_url(config), f"the shards of split {split} differ from the scan", remedy)


def _manifest(url: str, inputs: Inputs, scan: ScanResult, splits: dict[str, tuple[ShardInfo, ...]]) -> DataManifest:
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
        vocabulary=write_vocabulary(url, scan.vocabulary),
        skipped={split: reasons for split, reasons in scan.skipped.items() if reasons},
    )
