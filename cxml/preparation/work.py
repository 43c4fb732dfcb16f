"""The work of a preparation per block: the items of both passes, and the functions applied to them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenizers import Tokenizer

from cxml.config import Config, DataConfig
from cxml.data import Examples, TextEncoder, data_url
from cxml.data.terms import find_terms
from cxml.data.writer import shard_file, write_shard
from cxml.formats import Block, Cleaner, Reader, read_blocks
from cxml.preparation.journal import PreparationJournal
from cxml.preparation.staging import StagedBlock, read_staged, write_staged


@dataclass(frozen=True)
class SplitEnd:
    """End of a split's blocks, with the number of skipped raw rows by reason."""

    split: str
    skipped: dict[str, int]


@dataclass(frozen=True)
class Ticket:
    """A staged block: its split, its number, the number of its first row."""

    split: str
    number: int
    first_row: int


@dataclass(frozen=True)
class RawRows:
    """Items of the first pass: the rows of a source without finished blocks.

    Attributes:
        source: one reader for all splits, because it may have read every file to collect label names.
        data: the config's section.
        num_labels: L.
        done: numbers of the blocks to skip, per split.
    """

    source: Reader
    data: DataConfig
    num_labels: int
    done: Mapping[str, frozenset[int]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits."""
        return self.source.splits

    def read(self, part: str) -> Iterator[Block | SplitEnd]:
        """The blocks of a split in order, then its end."""
        cleaner = Cleaner(self.num_labels, self.data.on_error)
        yield from read_blocks(self.source, part, self.data.shard_rows, cleaner, self.done[part])
        yield SplitEnd(part, dict(cleaner.skipped))


@dataclass(frozen=True)
class Tickets:
    """Items of the second pass: the blocks without a shard, per split."""

    tickets: Mapping[str, tuple[Ticket, ...]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits."""
        return tuple(self.tickets)

    def read(self, part: str) -> Iterator[Ticket]:
        """The tickets of a split."""
        yield from self.tickets[part]


class BlockStager:
    """First pass: tokenises a block, finds its terms, and stages both."""

    def __init__(self, config: Config, tokenizer_rules: str, num_threads: int) -> None:
        """Create the tokenizer from the text of its `tokenizer.json`, with `num_threads` threads."""
        # Own threads, each with a part of the block, are a fifth faster than the library's threads, which synchronise
        # at the end of every call (docs/decisions/0005-preparation.md).
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._data = config.data
        pool = ThreadPoolExecutor(num_threads)
        self._encoder = TextEncoder(Tokenizer.from_str(tokenizer_rules), config.data.max_length, pool)
        self._journal = PreparationJournal(data_url(config))

    def __call__(self, block: Block) -> Ticket:
        """Stage the block. Returns its ticket."""
        texts = block.texts if self._data.keep_text else None
        staged = StagedBlock(self._encoder.encode(block.texts), block.labels, find_terms(block.texts), texts)
        write_staged(self._journal.stem(block.split, block.number), staged)
        self._journal.record_staged(block.split, block.number, len(block.texts))
        return Ticket(block.split, block.number, block.first_row)


class ShardMaker:
    """Second pass: turns a staged block into its shard."""

    def __init__(self, config: Config) -> None:
        """Load the result of the first pass."""
        self._url = data_url(config)
        self._journal = PreparationJournal(self._url)
        scan = self._journal.load_scan()
        assert scan is not None, "the first pass comes first"
        self._vocabulary, self._num_labels = scan.vocabulary, scan.labels.rows

    def __call__(self, ticket: Ticket) -> Ticket:
        """Write the shard. Returns the ticket."""
        block = read_staged(self._journal.stem(ticket.split, ticket.number), self._num_labels)
        examples = Examples(block.input_ids, block.labels, self._vocabulary.features(block.terms), block.texts)
        file = shard_file(ticket.split, ticket.number)
        self._journal.record(write_shard(self._url, file, examples, ticket.first_row))
        return ticket
