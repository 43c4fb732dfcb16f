"""Lines of UTF-8 files, a few thousand at a time."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from cxml.errors import DataError
from cxml.formats.files import read_content
from cxml.formats.reader import CHUNK_ROWS, Problem

LONGEST_LINE = 64 << 20
"""In bytes."""
NOT_UTF8 = "not valid UTF-8"
_MOST_BLANKS = 1 << 20
_BYTES_LOOKED_AT = 4096
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # the first one also begins UTF-32's


@dataclass(frozen=True)
class Lines:
    """Consecutive lines without line ends; `broken` has the lines that are not UTF-8, by their index in `lines`."""

    first: int
    lines: list[str]
    broken: dict[int, Problem]


def read_lines(url: str, rows: int = CHUNK_ROWS, skip: int = 0, *, cr_ends_lines: bool = False) -> Iterator[Lines]:
    """Lines of a file after the first `skip`, `rows` at a time.

    Only a newline ends a line, because texts may contain other characters at which Python splits.

    Args:
        url: the file; `-` is standard input.
        rows: lines to yield at a time.
        skip: lines to skip at the start.
        cr_ends_lines: accept carriage returns as line ends if the file starts without a newline, for forms whose lines
            cannot contain one.

    Raises:
        DataError: the file cannot be decompressed, is not UTF-8 text, or has a line longer than 64 MiB.
    """
    first = 1 + skip
    for lines in _chunks(url, rows, skip, cr_ends_lines):
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


def read_filled_lines(url: str) -> Iterator[tuple[int, str, Problem | None]]:
    """Number and text of each line, and its problem if it is not UTF-8, for forms with a row per line.

    Blank lines at the end are skipped.
    """
    blanks: list[str] = []
    for lines in read_lines(url, cr_ends_lines=True):
        for place, line in enumerate(lines.lines):
            number = lines.first + place
            problem = lines.broken.get(place)
            if problem is None and not line.strip():
                blanks.append(line)
                continue
            yield from ((number - len(blanks) + i, blank, None) for i, blank in enumerate(blanks))
            blanks.clear()
            yield number, line, problem


def count_lines(url: str) -> int:
    """Number of lines of a file."""
    count, last = 0, b"\n"
    for block in _read_text(url):
        count += block.count(b"\n")
        last = block[-1:] or last
    return count + (last != b"\n")


def _chunks(url: str, rows: int, skip: int, cr_ends_lines: bool) -> Iterator[list[bytes]]:
    pending: list[bytes] = []
    start_of_line = b""
    end = b"\n"
    num_read = 0
    for block in _read_text(url):
        if num_read == 0 and cr_ends_lines and b"\r" in block and b"\n" not in block:
            end = b"\r"
        if len(block) > _MOST_BLANKS and block.isspace():
            raise DataError(url, "millions of empty lines in a row", "Is this a text file?", line=num_read + 1)
        *whole, start_of_line = (start_of_line + block).split(end)
        num_read += len(whole)
        if len(start_of_line) > LONGEST_LINE:
            raise DataError(url, "a line is longer than 64 MiB", "Is this a text file?", line=num_read + 1)
        skipped = min(skip, len(whole))
        skip -= skipped
        pending += whole[skipped:] if skipped else whole
        num_full = len(pending) // rows * rows
        yield from (pending[start : start + rows] for start in range(0, num_full, rows))
        del pending[:num_full]
    if start_of_line and not skip:
        pending.append(start_of_line)
    yield from (pending[start : start + rows] for start in range(0, len(pending), rows))


def _read_text(url: str) -> Iterator[bytes]:
    """Blocks of a text file without its byte order mark. Raises `DataError` for another kind of file."""
    is_first = True
    for block in read_content(url):
        if is_first:
            _refuse_other_encodings(url, block[:_BYTES_LOOKED_AT])
            yield block.removeprefix(codecs.BOM_UTF8)
            is_first = False
        else:
            yield block


def _refuse_other_encodings(url: str, start: bytes) -> None:
    """Reject a file in another encoding as a whole, because some of its lines could be valid UTF-8."""
    convert = "Convert it to UTF-8, e.g. with iconv -f UTF-16 -t UTF-8."
    if start.startswith(_WIDE_MARKS):
        raise DataError(url, "not UTF-8 but UTF-16 or UTF-32, according to its byte order mark", convert, line=1)
    if start.count(0) * 4 > len(start):
        raise DataError(url, "a quarter of its bytes or more are NUL, as in UTF-16 or a binary file", convert, line=1)


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
            broken[i] = Problem(url, first + i, NOT_UTF8, "Convert the file, e.g. with iconv -t UTF-8.", detail)
    return decoded, broken
