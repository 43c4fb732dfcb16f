"""The location of a level's rows in a checkpoint, and their arrays, which are validated before use."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import torch

from cxml.checkpoint.manifest import whole_blocks
from cxml.checkpoint.shards import ShardReader
from cxml.errors import DataError

ANOTHER_MODEL = "It was saved by a run with another model or label set."


@dataclass(frozen=True)
class SavedLevel:
    """The names of a level's rows in a checkpoint, and their number.

    Attributes:
        positions: folder of the positions in tree order.
        rows: folder of the weights for prediction.
        optimizer: folder of moments and counters.
        parameter: names of the engine's blocks of rows, if the engine holds them; {} is the number of a block.
        num_rows: rows of the whole level.
        width: weights per row.
    """

    positions: str
    rows: str
    optimizer: str
    parameter: str
    num_rows: int
    width: int

    @classmethod
    def labels(cls, num_labels: int, width: int) -> SavedLevel:
        """The label rows."""
        return cls("label_positions", "labels", "label_optimizer", "label_head.blocks.{}", num_labels, width)

    @classmethod
    def clusters(cls, level: int, num_nodes: int, width: int) -> SavedLevel:
        """The rows of a cluster level; level 0 is the coarsest."""
        name, parameter = f"cluster_{level}", f"cluster_heads.{level}"
        return cls(f"{name}_positions", f"{name}_rows", f"{name}_optimizer", parameter, num_nodes, width)

    def are_parameters(self, reader: ShardReader) -> bool:
        """Whether the engine held the rows when the checkpoint was saved.

        Raises:
            DataError: the stored label rows do not have the form in the manifest.
        """
        found = f"model/{self.parameter.format(0)}.weight" in reader.manifest.tensors
        if self.positions == "label_positions" and found != (reader.manifest.run.label_head == "zero3"):
            raise DataError(reader.url, "its label rows do not have the form in its manifest", ANOTHER_MODEL)
        return found

    def matches(self, parameter: str) -> re.Match[str] | None:
        """Match a parameter of the engine that belongs to the level; the groups are its block and its kind."""
        pattern = re.escape(self.parameter).replace(r"\{\}", r"(?P<block>\d+)")
        return re.fullmatch(rf"{pattern}\.(?P<kind>weight|bias)", parameter)


def row_blocks(reader: ShardReader, level: SavedLevel) -> list[str]:
    """SHARD/BLOCK of every block of a level."""
    prefix = level.positions
    return [name.removeprefix(f"{prefix}/") for name in whole_blocks(list(reader.manifest.tensors), prefix)]


def read_positions(reader: ShardReader, level: SavedLevel, block: str) -> np.ndarray:
    """The positions of a block's rows, int64 [n]."""
    positions = reader.tensor(f"{level.positions}/{block}/positions").numpy()
    if positions.dtype != np.int64 or positions.min() < 0 or positions.max() >= level.num_rows:
        raise DataError(reader.url, "refers to labels outside the label set", ANOTHER_MODEL)
    return positions


def read_steps(reader: ShardReader, name: str, num_rows: int) -> np.ndarray:
    """A step of each row, int32 [n], at most the checkpoint's step, because kernels use them as indices."""
    steps = read_array(reader, name, (num_rows,))
    if steps.dtype != np.int32 or steps.min() < 0 or steps.max() > reader.manifest.run.step:
        raise DataError(reader.url, f"has values in {name} beyond its own step", ANOTHER_MODEL)
    return steps


def read_log_decay(reader: ShardReader) -> np.ndarray:
    """Cumulative log decay of the label rows at each step of the run, float64 [step + 1], decreasing from 0."""
    run = reader.manifest.run
    schedule = run.row_schedule
    if (
        not {"step", "lr", "beta1"} <= schedule.keys()
        or schedule["step"] != run.step
        or not all(math.isfinite(value) for value in schedule.values())
    ):
        raise DataError(reader.url, "its schedule of the label rows does not fit its step", ANOTHER_MODEL)
    log_decay = read_array(reader, "label_schedule/log_decay", (run.step + 1,))
    if log_decay.dtype != np.float64 or log_decay[0] != 0 or (np.diff(log_decay) > 0).any():
        raise DataError(reader.url, "has an invalid decay of the label rows", ANOTHER_MODEL)
    return log_decay


def engine_blocks(reader: ShardReader, level: SavedLevel) -> list[tuple[int, int]]:
    """First position and number of rows of each of the engine's blocks of a level's rows."""
    width, num_rows = level.width, level.num_rows
    blocks: list[tuple[int, int]] = []
    start = 0
    while start < num_rows:
        name = f"model/{level.parameter.format(len(blocks))}"
        rows = reader.entry(f"{name}.bias").numel
        if not rows or reader.entry(f"{name}.weight").numel != rows * width or start + rows > num_rows:
            raise DataError(reader.url, f"{name} does not fit its {num_rows} rows", ANOTHER_MODEL)
        blocks.append((start, rows))
        start += rows
    return blocks


def read_array(reader: ShardReader, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the checkpoint, which must have the elements of `shape`; e4m3 as bits in uint8."""
    if reader.entry(name).numel != math.prod(shape):
        raise DataError(reader.url, f"{name} has {reader.entry(name).numel} elements, expected {shape}", ANOTHER_MODEL)
    tensor = reader.tensor(name)
    return (tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor).numpy().reshape(shape)
