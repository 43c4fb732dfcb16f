"""Upper bounds for the uncompressed content of a file, which limit allocations from untrusted sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxml.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

_RATIO = 400
_SLACK_BYTES = 64 << 20


def most_bytes(file_bytes: int) -> int:
    """Most bytes that a file of `file_bytes` bytes on disk may decompress to.

    Text compresses by a factor of 3 to 10, and repetitive text of about 200. The bound allows twice that plus 64 MiB,
    because equal lines or labels at the start of a file compress even better. A decompression bomb reaches a factor of
    1,032 with gzip, and millions with other formats.
    """
    return _SLACK_BYTES + _RATIO * file_bytes


def most_items(file_bytes: int) -> int:
    """Most items of 4 bytes, such as label ids, in a file of `file_bytes` bytes."""
    return most_bytes(file_bytes) // 4


def refuse_repeated_values(url: str, facts: FileMetaData, file_bytes: int, remedy: str) -> None:
    """Check the declared size of a Parquet file of `file_bytes` bytes before values are read.

    Repeated values take almost no space, so a small file can declare any number of them.

    Raises:
        DataError: the file declares more values than `most_items`.
    """
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    count = max((sum(group.column(i).num_values for group in groups) for i in range(facts.num_columns)), default=0)
    if count > most_items(file_bytes):
        raise DataError(url, f"declares {count} values, more than a file of its size can contain", remedy)
