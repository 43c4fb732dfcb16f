"""Numbers in text files, read strictly.

Python's `int` also takes other scripts' digits, underscores and signs, and `float` takes words; a label id of that kind
is a broken line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
_LABEL = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # a negative id is out of range, which says more than "no number"


def parse_count(word: str) -> int | None:
    """A number from 0 on that fits 64 bits, or None where `word` is none."""
    return int(word) if _COUNT.fullmatch(word) else None


def parse_entries(entries: Iterable[str]) -> list[int]:
    """The label ids of entries `label` and `label:value`, without those whose value is 0; perhaps out of range.

    Raises:
        ValueError: an entry is something else, or its value is not finite.
    """
    found = []
    for entry in entries:
        label, _, value = entry.strip().partition(":")
        weight = float(value) if value else 1.0
        if not _LABEL.fullmatch(label) or not math.isfinite(weight):
            raise ValueError(f"{entry[:40]!r} is not a label")
        if weight != 0:
            found.append(int(label))
    return found
