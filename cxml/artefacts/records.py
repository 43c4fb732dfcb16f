"""The records of a run, one JSON object per line in `metrics.jsonl`, which grows while others read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cxml import storage


def read_records(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a file of records, and what they hold: up to the first that is torn or damaged. None without it."""
    content = storage.read_bytes(url) if storage.exists(url) else b""
    for line in content.splitlines(keepends=True):
        try:
            text = line.decode()
            record = json.loads(text)
        except (ValueError, RecursionError):
            return
        are_numbers = isinstance(record, dict) and all(
            isinstance(record.get(name, 0), int | float) for name in ("step", "epoch")
        )
        if not are_numbers or not isinstance(record.get("kind"), str):
            return
        yield text, record
