"""Reads the records that a training wrote."""

from __future__ import annotations

from typing import Any

from cxml import artefacts, storage


def train_records(output: str) -> list[dict[str, Any]]:
    """The records of training steps in `metrics.jsonl` of a run's output, a path or URL."""
    records = artefacts.read_records(storage.join(output, "metrics.jsonl"))
    return [record for _, record in records if record["kind"] == "train"]
