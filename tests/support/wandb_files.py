"""Reads the records of an offline Weights & Biases run: protobuf messages in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


def offline_runs(folder: Path) -> list[Path]:
    """The files of the runs below `folder`, which is WANDB_DIR, oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)


def wandb_records(file: Path) -> Iterator[Any]:
    """The `Record` messages of a file."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + _HEADER.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:
            place += left
            continue
        _, size, kind = _HEADER.unpack_from(content, place)
        parts += content[place + _HEADER.size : place + _HEADER.size + size]
        place += _HEADER.size + size
        if kind in (_WHOLE, _LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def history(file: Path) -> list[dict[str, Any]]:
    """The logged values, in order."""
    rows = [record.history.item for record in wandb_records(file) if record.HasField("history")]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]
