"""The work of a preparation on one block of rows: pure functions of the block, whoever runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cxml.config import Config
from cxml.data import Examples, data_url
from cxml.data.writer import shard_file, write_shard
from data_tools.formats import SPLITS, Block, Cleaner, open_source, read_blocks
from data_tools.preparation.progress import Progress
from data_tools.preparation.terms import count_terms
from data_tools.preparation.tokenizing import load_tokenizer, tokenize


@dataclass(frozen=True)
class SplitEnd:
    """Comes after the last block of a split: how many raw rows were left out, by reason."""

    split: str
    skipped: dict[str, int]


@dataclass(frozen=True)
class RawRows:
    """What to read: the raw rows of a config, but for blocks that are done.

    Attributes:
        config: names the source.
        num_labels: L.
        done: numbers of the blocks to leave out, per split.
    """

    config: Config
    num_labels: int
    done: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """Each is read by a process of its own where there are several."""
        return SPLITS

    def read(self, split: str) -> Iterator[Block | SplitEnd]:
        """The blocks of a split in order, then its end."""
        data = self.config.data
        cleaner = Cleaner(self.num_labels, data.on_error)
        skip = self.done.get(split, frozenset())
        yield from read_blocks(open_source(data.source), split, data.shard_rows, cleaner, skip)
        yield SplitEnd(split, dict(cleaner.skipped))


@dataclass(frozen=True)
class BlockCounts:
    """What the first pass learns from a block: rows, and of train texts labels (id -> texts) and terms."""

    split: str
    rows: int
    label_ids: np.ndarray
    label_texts: np.ndarray
    terms: pa.Table | None


def count_block(block: Block) -> BlockCounts:
    """Count one block; only train texts shape the vocabulary and the label table."""
    is_train = block.split == "train"
    labels = block.labels.values if is_train else block.labels.values[:0]
    ids, texts = np.unique(labels, return_counts=True)
    return BlockCounts(block.split, len(block.texts), ids, texts, count_terms(block.texts) if is_train else None)


class ShardMaker:
    """Makes the shard of a block: tokens, tf-idf, file, and a note that it is done."""

    def __init__(self, config: Config) -> None:
        """Load what the first pass has left."""
        self._config = config
        self._tokenizer, _ = load_tokenizer(config)
        self._progress = Progress(data_url(config))
        scan = self._progress.load_scan()
        assert scan is not None, "the first pass comes first"
        self._vocabulary = scan.vocabulary

    def __call__(self, block: Block) -> tuple[str, int]:
        """Write the shard; its split and number."""
        data = self._config.data
        with ThreadPoolExecutor(1) as pool:  # the tokenizer leaves the interpreter to the features meanwhile
            input_ids = pool.submit(tokenize, self._tokenizer, block.texts, data.max_length)
            features = self._vocabulary.features(block.texts)
        texts = block.texts if data.keep_text else None
        examples = Examples(input_ids.result(), block.labels, features, texts)
        info = write_shard(data_url(self._config), shard_file(block.split, block.number), examples, block.first_row)
        self._progress.record(info)
        return block.split, block.number
