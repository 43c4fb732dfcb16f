"""How much a file can honestly hold: the one bound on what is allocated because a file says so."""

from __future__ import annotations

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
