"""The text files of fastText: a text per line, with its labels as words that begin with `__label__`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cxml.formats.lines import read_filled_lines
from cxml.formats.reader import Problem

PREFIX = "__label__"
COLUMNS = ("text", "labels")
_FIRST_LINES = 10


def is_fasttext(url: str) -> bool:
    """Whether one of the first lines of a file contains a label."""
    lines = zip(range(_FIRST_LINES), read_filled_lines(url), strict=False)
    return any(_is_label(word) for _, (_, line, _) in lines for word in line.split())


def read_fasttext(url: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """The number of each line, and its text and labels or its problem."""
    for number, line, problem in read_filled_lines(url):
        words = line.split()
        labels = [word.removeprefix(PREFIX) for word in words if _is_label(word)]
        text = " ".join(word for word in words if not _is_label(word))
        yield number, problem or dict(zip(COLUMNS, (text, labels), strict=True))


def _is_label(word: str) -> bool:
    return word.startswith(PREFIX) and word != PREFIX
