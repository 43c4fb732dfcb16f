"""The arrays of saved label rows, each checked against what the checkpoint says of itself before it is used."""

from __future__ import annotations

import math

import numpy as np

from cxml.checkpoint.manifest import whole_blocks
from cxml.checkpoint.shards import ShardReader
from cxml.errors import DataError

ANOTHER_MODEL = "It was saved by a run with another model or label set."


def row_blocks(reader: ShardReader) -> list[str]:
    """SHARD/BLOCK of every block."""
    prefix = "label_positions"
    return [name.removeprefix(f"{prefix}/") for name in whole_blocks(list(reader.manifest.tensors), prefix)]


def read_positions(reader: ShardReader, block: str, num_labels: int) -> np.ndarray:
    """The label positions of a block's rows, int64 [n]."""
    positions = reader.tensor(f"label_positions/{block}/positions").numpy()
    if positions.dtype != np.int64 or positions.min() < 0 or positions.max() >= num_labels:
        raise DataError(reader.url, "has rows of labels that do not exist", ANOTHER_MODEL)
    return positions


def read_steps(reader: ShardReader, name: str, num_rows: int) -> np.ndarray:
    """A step of each row, int32 [n], none later than the checkpoint's own: kernels look things up by them."""
    steps = read_array(reader, name, (num_rows,))
    if steps.dtype != np.int32 or steps.min() < 0 or steps.max() > reader.manifest.run.step:
        raise DataError(reader.url, f"has {name} of other steps than its own", ANOTHER_MODEL)
    return steps


def read_log_decay(reader: ShardReader) -> np.ndarray:
    """Running decay of the label rows as of each step of the run, float64 [step + 1], from 0 downwards."""
    run = reader.manifest.run
    schedule = run.row_schedule
    if (
        not {"step", "lr", "beta1"} <= schedule.keys()
        or schedule["step"] != run.step
        or not all(math.isfinite(value) for value in schedule.values())
    ):
        raise DataError(reader.url, "has a schedule of the label rows that does not fit its step", ANOTHER_MODEL)
    log_decay = read_array(reader, "label_schedule/log_decay", (run.step + 1,))
    if log_decay.dtype != np.float64 or log_decay[0] != 0 or (np.diff(log_decay) > 0).any():
        raise DataError(reader.url, "has an impossible decay of the label rows", ANOTHER_MODEL)
    return log_decay


def engine_blocks(reader: ShardReader) -> list[tuple[int, int]]:
    """First label position and number of rows of each of the engine's blocks of label rows."""
    run = reader.manifest.run
    blocks: list[tuple[int, int]] = []
    start = 0
    while start < run.num_labels:
        name = f"model/label_head.blocks.{len(blocks)}"
        rows = reader.entry(f"{name}.bias").numel
        if reader.entry(f"{name}.weight").numel != rows * run.width or start + rows > run.num_labels:
            raise DataError(reader.url, f"{name} does not fit its {run.num_labels} labels", ANOTHER_MODEL)
        blocks.append((start, rows))
        start += rows
    return blocks


def read_array(reader: ShardReader, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the checkpoint, which must have as many elements as `shape`."""
    if reader.entry(name).numel != math.prod(shape):
        raise DataError(reader.url, f"{name} has {reader.entry(name).numel} elements, not {shape}", ANOTHER_MODEL)
    return reader.tensor(name).numpy().reshape(shape)
