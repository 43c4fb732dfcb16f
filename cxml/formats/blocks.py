"""Group clean rows into blocks of an exact size, each of which becomes one shard."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from cxml.data import Ragged, concatenate
from cxml.formats.cleaning import Cleaner
from cxml.formats.reader import Reader


@dataclass(frozen=True)
class Block:
    """Consecutive clean rows of a split.

    Attributes:
        split: their split.
        number: of the block in its split, from 0.
        first_row: number of its first row in the split, from 0.
        texts: n texts.
        labels: label ids, sorted and unique in each row, at least one each.
    """

    split: str
    number: int
    first_row: int
    texts: list[str]
    labels: Ragged


def read_blocks(reader: Reader, split: str, rows: int, cleaner: Cleaner, skip: Container[int] = ()) -> Iterator[Block]:
    """Yield blocks of exactly `rows` rows, with a shorter last one, in bounded memory.

    Args:
        reader: the raw data.
        split: split to read.
        rows: rows per block.
        cleaner: rejects or skips broken rows.
        skip: numbers of blocks to skip.
    """
    number = 0
    texts: list[str] = []
    labels: list[Ragged] = []
    for chunk in reader.chunks(split):
        chunk_texts, chunk_labels = cleaner.clean(chunk)
        start = 0
        while start < len(chunk_texts):
            stop = min(len(chunk_texts), start + rows - len(texts))
            texts += chunk_texts[start:stop]
            labels.append(chunk_labels.slice(start, stop))
            start = stop
            if len(texts) == rows:
                if number not in skip:
                    yield Block(split, number, number * rows, texts, concatenate(labels))
                number, texts, labels = number + 1, [], []
    if texts and number not in skip:
        yield Block(split, number, number * rows, texts, concatenate(labels))
