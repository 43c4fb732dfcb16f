"""Lines of UTF-8 files, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cxml.errors import DataError
from data_tools.formats.files import read_content
from data_tools.formats.reader import CHUNK_ROWS, Problem

_LONGEST_LINE = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """Consecutive lines without their ends; `broken` names those that are not UTF-8, by their place in `lines`."""

    first: int
    lines: list[str]
    broken: dict[int, Problem]


def read_lines(url: str, rows: int = CHUNK_ROWS, skip: int = 0) -> Iterator[Lines]:
    """Lines of a file after the first `skip`, `rows` at a time.

    Only a newline ends a line: texts may hold what else Python splits at.

    Raises:
        DataError: the file cannot be decompressed, or a line is longer than 64 MiB.
    """
    first = 1 + skip
    for lines in _chunks(url, rows, skip):
        if first == 1 and lines:
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        yield _decode(url, first, lines)
        first += len(lines)


def read_all_lines(url: str) -> list[str]:
    """All lines of a small file. Raises `DataError` for the first that is not UTF-8."""
    found: list[str] = []
    for lines in read_lines(url):
        for problem in lines.broken.values():
            raise problem.error()
        found += lines.lines
    return found


def _chunks(url: str, rows: int, skip: int) -> Iterator[list[bytes]]:
    pending: list[bytes] = []
    start_of_line = b""
    num_read = 0
    for block in read_content(url):
        *whole, start_of_line = (start_of_line + block).split(b"\n")
        pending += whole
        num_read += len(whole)
        skip = _drop(pending, skip)
        if len(start_of_line) > _LONGEST_LINE:
            raise DataError(url, "a line is longer than 64 MiB", "Is this a text file?", line=num_read + 1)
        while len(pending) >= rows:
            yield pending[:rows]
            del pending[:rows]
    if start_of_line:
        pending.append(start_of_line)
        _drop(pending, skip)
    if pending:
        yield from (pending[start : start + rows] for start in range(0, len(pending), rows))


def _drop(lines: list[bytes], count: int) -> int:
    """Remove up to `count` lines from the front; how many are still to be removed."""
    removed = min(count, len(lines))
    del lines[:removed]
    return count - removed


def _decode(url: str, first: int, lines: list[bytes]) -> Lines:
    joined = b"\n".join(lines)
    try:
        decoded = joined.decode().split("\n")
        broken = {}
    except UnicodeDecodeError:
        decoded, broken = _decode_one_by_one(url, first, lines)
    if b"\r" in joined:
        decoded = [line.removesuffix("\r") for line in decoded]
    return Lines(first, decoded, broken)


def _decode_one_by_one(url: str, first: int, lines: list[bytes]) -> tuple[list[str], dict[int, Problem]]:
    decoded, broken = [], {}
    for i, line in enumerate(lines):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            decoded.append("")
            detail = f" ({error.reason}: 0x{line[error.start]:02x})"
            broken[i] = Problem(
                url, first + i, "not valid UTF-8", "Convert the file, e.g. with iconv -t UTF-8.", detail
            )
    return decoded, broken
