"""Parse numbers in text files strictly.

Python's `int` also accepts digits of other scripts, underscores and signs, and `float` accepts words; here such label
ids are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
_LABEL = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # negative ids get a better error later


def parse_count(word: str) -> int | None:
    """Parse a non-negative number that fits 64 bits. Returns None for other words."""
    return int(word) if _COUNT.fullmatch(word) else None


def parse_entries(entries: Iterable[str]) -> list[int]:
    """The label ids of entries `label` and `label:value`, without those with value 0; may be out of range.

    Raises:
        ValueError: an entry has another form, or its value is not finite.
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
