"""How much a file can honestly hold: the one bound on what is allocated because a file says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxml.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

_RATIO = 400
_SLACK_BYTES = 64 << 20


def most_bytes(file_bytes: int) -> int:
    """Bytes that a file of `file_bytes` bytes on disk may unpack to.

    Text compresses 3 to 10 times, and text that repeats itself about 200 times. The bound allows twice that, and 64 MiB
    more, because a run of equal lines or labels at the start of a file compresses better still. A file made to blow up
    reaches 1,032 times with gzip and millions of times with other formats.
    """
    return _SLACK_BYTES + _RATIO * file_bytes


def most_items(file_bytes: int) -> int:
    """Items of 4 bytes, such as label ids, that a file of `file_bytes` bytes may describe."""
    return most_bytes(file_bytes) // 4


def refuse_repeated_values(url: str, facts: FileMetaData, file_bytes: int, remedy: str) -> None:
    """Refuse a Parquet file of `file_bytes` bytes by its own facts, before a value is read.

    Values that repeat take next to no room, so a small file can declare any number of them.

    Raises:
        DataError: it declares more values than `most_items`.
    """
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    count = max((sum(group.column(i).num_values for group in groups) for i in range(facts.num_columns)), default=0)
    if count > most_items(file_bytes):
        raise DataError(url, f"declares {count} values, more than a file of its size can hold", remedy)
