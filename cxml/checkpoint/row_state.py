"""Rows of levels as tensors of a checkpoint, in blocks with explicit positions, so any layout can read any other.

    label_positions/SHARD/BLOCK/positions   int64 [n], label positions in tree order
    labels/SHARD/BLOCK/NAME                 weight [n, D], bias [n], last_step [n], for fp8 scale [n]
    label_optimizer/SHARD/BLOCK/NAME        moments and counters
    cluster_1_positions, cluster_1_rows, cluster_1_optimizer    the same of a sharded level of clusters
    label_schedule/log_decay                cumulative decay, for rows with pending decay

Cluster levels up to `head.shard_from`, and all levels with the `zero3` head, are parameters of the engine, with labels
in blocks. This module converts between both forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxml.checkpoint.engine_state import ParameterShard
from cxml.checkpoint.pieces import PIECE_BYTES, Pieces
from cxml.checkpoint.row_arrays import (
    ANOTHER_MODEL,
    SavedLevel,
    engine_blocks,
    read_array,
    read_log_decay,
    read_positions,
    read_steps,
    row_blocks,
)
from cxml.checkpoint.shards import ShardReader
from cxml.errors import DataError
from cxml.model.heads import LABEL_BLOCK
from cxml.optim import as_tensor
from cxml.optim.row_formats import to_float32
from cxml.parallel import ShardedLevel

_READ_FOR_PREDICTION = ("weight", "scale", "bias", "last_step")
_STORED_AS = {torch.bfloat16: torch.uint16, torch.uint8: torch.float8_e4m3fn}


def rows_to_save(head: ShardedLevel, level: SavedLevel) -> dict[str, Pieces]:
    """A rank's rows of a level, as views; of several replicas of the rows only the first is saved."""
    if head.replicas.rank:
        return {}
    tensors = {name: values for name, values in vars(head.rows).items() if values.numel()}
    tensors["positions"] = torch.from_numpy(head.layout.positions())
    block_rows = max(1, PIECE_BYTES // (4 * head.rows.width))
    found = {}
    for block, first in enumerate(range(0, head.rows.num_rows, block_rows)):
        for name, values in tensors.items():
            rows = values[first : first + block_rows]
            stored = rows.view(_STORED_AS[rows.dtype]) if rows.dtype in _STORED_AS else rows
            found[f"{_part_of(level, name)}/{head.layout.shard:05d}/{block:05d}/{name}"] = Pieces.whole(stored)
    return found


def schedule_to_save(head: ShardedLevel) -> dict[str, Pieces]:
    """The schedule of the rows' decay; the same on every rank."""
    log_decay = head.schedule.log_decay[: head.schedule.step + 1].to("cpu", copy=True)
    return {"label_schedule/log_decay": Pieces.whole(log_decay)}


def load_rows(head: ShardedLevel, level: SavedLevel, reader: ShardReader, *, trains: bool = True) -> None:
    """Load a rank's rows of a level, saved by any ranks in either form.

    Args:
        head: newly created level.
        level: location of the rows.
        reader: reader of the checkpoint.
        trains: False reads weights only.

    Raises:
        DataError: rows are missing, or do not fit.
    """
    layout, width = head.layout, head.rows.width
    if (level.num_rows, level.width) != (layout.num_labels, width):
        problem = f"contains {level.num_rows} rows of {level.width} in {level.rows}, not {layout.num_labels} of {width}"
        raise DataError(reader.url, problem, ANOTHER_MODEL)
    _load_schedule(head, reader, trains=trains)
    if level.are_parameters(reader):
        _load_engine_rows(head, level, reader, trains=trains)
        return
    missing = np.ones(layout.num_rows, bool)
    for block in row_blocks(reader, level):
        local = layout.local_rows(read_positions(reader, level, block))
        own = np.flatnonzero(local >= 0)
        if len(own):
            _load_block(head, level, reader, block, own=own, local=local[own], trains=trains)
            missing[local[own]] = False
    if missing.any():
        raise DataError(reader.url, f"lacks {missing.sum()} rows of {level.rows}", ANOTHER_MODEL)


def check_rows_are_held(reader: ShardReader, level: SavedLevel) -> None:
    """Check that a checkpoint has all rows of a level, before memory is allocated for them.

    Raises:
        DataError: the number of rows differs from the manifest.
    """
    if level.are_parameters(reader):
        engine_blocks(reader, level)
        return
    held = sum(reader.entry(f"{level.rows}/{block}/weight").numel for block in row_blocks(reader, level))
    if held != level.num_rows * level.width:
        problem = f"contains {held} weights of {level.rows}, not {level.num_rows} rows of {level.width}"
        raise DataError(reader.url, problem, ANOTHER_MODEL)


def load_engine_rows(shards: list[ParameterShard], level: SavedLevel, block_rows: int, reader: ShardReader) -> None:
    """Load the engine's rows of a level from a checkpoint in which the engine did not hold them.

    Args:
        shards: the engine's shards; those of the level's rows are filled.
        level: location of the rows.
        block_rows: rows of each of the engine's blocks except the last.
        reader: reader of the checkpoint.
    """
    wanted = [_EngineRows.of(shard, level, block_rows) for shard in shards if level.matches(shard.name)]
    for block in saved_rows(reader, level):
        for part in wanted:
            part.take(block, reader.manifest.run.optimizer_step)


def whole_level(reader: ShardReader, level: SavedLevel) -> tuple[Tensor, Tensor]:
    """Weights float32 [n, D] and biases float32 [n] of all rows of a level that the engine did not hold.

    Raises:
        DataError: rows are missing.
    """
    check_rows_are_held(reader, level)
    weight, bias = torch.zeros(level.num_rows, level.width), torch.zeros(level.num_rows)
    for block in saved_rows(reader, level, with_state=False):
        weight[torch.from_numpy(block.positions)] = torch.from_numpy(block.weight)
        bias[torch.from_numpy(block.positions)] = torch.from_numpy(block.bias)
    return weight, bias


def is_label_row(name: str) -> bool:
    """Whether a parameter of the engine, or a tensor of it, belongs to the label rows."""
    return LABEL_BLOCK.search(name) is not None


def engine_rows(reader: ShardReader, level: SavedLevel) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of a level that the engine held, block by block: positions int64 [n], weight [n, D], bias [n].

    Raises:
        DataError: the blocks do not fit the level.
    """
    for number, (start, rows) in enumerate(engine_blocks(reader, level)):
        name = f"model/{level.parameter.format(number)}"
        weight, bias = reader.tensor(f"{name}.weight").view(rows, level.width), reader.tensor(f"{name}.bias")
        yield torch.arange(start, start + rows), weight, bias


@dataclass(frozen=True, eq=False)
class SavedRows:
    """A block of rows at the end of the checkpoint's step.

    Attributes:
        positions: int64 [n].
        weight: float32 [n, D]; moment, second: float32 [n, D], or None.
        bias: float32 [n]; bias_moments: float32 [n, 2], or None.
        updates: int32 [n]; number of updates of each row.
        betas: AdamW's two betas.
    """

    positions: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    moment: np.ndarray | None = None
    second: np.ndarray | None = None
    bias_moments: np.ndarray | None = None
    updates: np.ndarray | None = None
    betas: tuple[float, float] = (0.0, 0.0)


def saved_rows(reader: ShardReader, level: SavedLevel, *, with_state: bool = True) -> Iterator[SavedRows]:
    """All rows of a level that the engine did not hold, block by block, with pending decay applied."""
    log_decay = read_log_decay(reader)
    for block in row_blocks(reader, level):
        positions = read_positions(reader, level, block)
        shape = (len(positions), level.width)
        last_step = read_steps(reader, f"{level.rows}/{block}/last_step", len(positions))
        factors = np.exp(log_decay[-1] - log_decay[last_step]).astype(np.float32)
        weight = read_array(reader, f"{level.rows}/{block}/weight", shape)
        scale = np.empty(0, np.float32)
        if weight.dtype == np.uint8:
            scale = read_array(reader, f"{level.rows}/{block}/scale", shape[:1])
        yield SavedRows(
            positions,
            to_float32(weight, scale) * factors[:, None],
            read_array(reader, f"{level.rows}/{block}/bias", shape[:1]),
            **_saved_moments(reader, level, block, shape) if with_state else {},
        )


def _saved_moments(reader: ShardReader, level: SavedLevel, block: str, shape: tuple[int, int]) -> dict:
    """The optimiser state of a block, if any; a second moment per row is expanded to the row."""
    prefix = f"{level.optimizer}/{block}"
    if f"{prefix}/moment" not in reader.manifest.tensors:
        return {}
    run = reader.manifest.run
    is_full = reader.entry(f"{prefix}/second").numel == shape[0] * shape[1]
    second = read_array(reader, f"{prefix}/second", shape if is_full else (shape[0], 1))
    if not 0 <= run.row_schedule.get("beta1", -1) < 1 or not 0 <= run.row_schedule.get("beta2", -1) < 1:
        raise DataError(reader.url, "has invalid betas of the label rows", ANOTHER_MODEL)
    return {
        "moment": read_array(reader, f"{prefix}/moment", shape),
        "second": np.broadcast_to(second, shape),
        "bias_moments": read_array(reader, f"{prefix}/bias_moments", (shape[0], 2)),
        "updates": read_steps(reader, f"{prefix}/updates", shape[0]),
        "betas": (run.row_schedule["beta1"], run.row_schedule["beta2"]),
    }


@dataclass(frozen=True, eq=False)
class _EngineRows:
    """This rank's part of a block parameter of the engine's rows."""

    shard: ParameterShard
    is_weight: bool
    first: int
    width: int

    @classmethod
    def of(cls, shard: ParameterShard, level: SavedLevel, block_rows: int) -> _EngineRows:
        """Compute the offset of the part in all rows, in elements."""
        match = level.matches(shard.name)
        assert match, "the caller has checked"
        is_weight = match["kind"] == "weight"
        columns = level.width if is_weight else 1
        block = int(match.groupdict().get("block", 0))
        return cls(shard, is_weight, block * block_rows * columns + shard.start, columns)

    def take(self, block: SavedRows, step: int) -> None:
        """Copy the overlap of a block of rows with this part."""
        places = block.positions[:, None] * self.width + np.arange(self.width) - self.first
        own = (places >= 0) & (places < len(self.shard.weights))
        if not own.any():
            return
        targets = torch.from_numpy(places[own])
        values = block.weight if self.is_weight else block.bias[:, None]
        self.shard.weights[targets] = torch.from_numpy(values[own]).to(self.shard.weights)
        if block.moment is None or block.second is None or block.bias_moments is None or block.updates is None:
            return
        pairs = (block.moment, block.second) if self.is_weight else np.split(block.bias_moments, 2, axis=1)
        for moment, beta, saved in zip(self.shard.moments.values(), block.betas, pairs, strict=True):
            # The effective moment is moment / (1 - beta^updates), but the engine uses its own count for all rows.
            has = np.maximum(1 - beta ** block.updates.astype(np.float64), 1e-12)
            factor = np.where(block.updates > 0, (1 - beta**step) / has, 0).astype(np.float32)
            moment[targets] = torch.from_numpy((saved * factor[:, None])[own]).to(moment)


def _load_engine_rows(head: ShardedLevel, level: SavedLevel, reader: ShardReader, *, trains: bool) -> None:
    """Load the rows from a checkpoint in which the engine held them."""
    rows = head.rows
    rows.last_step.fill_(head.schedule.step)
    has_moments = trains and rows.moment.numel()
    if has_moments:
        rows.updates.fill_(reader.manifest.run.optimizer_step)
    for block, (positions, weight, bias) in enumerate(engine_rows(reader, level)):
        head.import_rows(positions, weight, bias)
        if has_moments:
            _load_engine_moments(head, positions, f"{level.parameter.format(block)}", reader)


def _load_engine_moments(head: ShardedLevel, positions: Tensor, block: str, reader: ShardReader) -> None:
    """Load AdamW's moments from a block of the engine; a second moment per row is the mean over the row."""
    rows = head.rows
    local = head.layout.local_rows(positions.numpy())
    own = np.flatnonzero(local >= 0)
    for i, (moment, target) in enumerate((("exp_avg", rows.moment), ("exp_avg_sq", rows.second))):
        weight, bias = (f"optimizer/{moment}/{block}.{kind}" for kind in ("weight", "bias"))
        values = read_array(reader, weight, (len(positions), rows.width))[own]
        values = values if target.shape[1] == rows.width else values.mean(axis=1, keepdims=True)
        _put(target, local[own], torch.from_numpy(values))
        _put(rows.bias_moments[:, i], local[own], torch.from_numpy(read_array(reader, bias, (len(positions),))[own]))


def _put(target: Tensor, local: np.ndarray, values: Tensor) -> None:
    """Write the values of some rows, int64 [n], into an array of all rows on any device."""
    target[torch.from_numpy(local).to(target.device)] = values.to(target.device)


def _load_schedule(head: ShardedLevel, reader: ShardReader, *, trains: bool) -> None:
    run, schedule = reader.manifest.run, head.schedule
    if run.label_head == "zero3":  # its rows are up to date, so no decay is pending
        schedule.step = run.step if trains else 0
        schedule.log_decay = _room_for(schedule.step + 1)
        return
    log_decay = read_log_decay(reader)
    schedule.step = len(log_decay) - 1
    schedule.lr, schedule.beta1 = run.row_schedule["lr"], run.row_schedule["beta1"]
    schedule.log_decay = _room_for(len(log_decay))
    schedule.log_decay[: len(log_decay)] = torch.from_numpy(log_decay)


def _room_for(steps: int) -> Tensor:
    """An array for the cumulative decay of a schedule after `steps` steps, with room for more."""
    return torch.zeros(max(1024, 2 * steps), dtype=torch.float64)


def _load_block(
    head: ShardedLevel,
    level: SavedLevel,
    reader: ShardReader,
    block: str,
    *,
    own: np.ndarray,
    local: np.ndarray,
    trains: bool,
) -> None:
    num_rows = reader.entry(f"{level.positions}/{block}/positions").numel
    for name in ("last_step", "updates") if trains else ("last_step",):
        read_steps(reader, f"{_part_of(level, name)}/{block}/{name}", num_rows)
    for name, target in vars(head.rows).items():
        if not target.numel() or (name not in _READ_FOR_PREDICTION and not trains):
            continue
        saved = read_array(reader, f"{_part_of(level, name)}/{block}/{name}", (num_rows, *target.shape[1:]))
        values = as_tensor(saved[own])
        if values.dtype != target.dtype:
            raise DataError(reader.url, f"contains {name} of rows in another number format", ANOTHER_MODEL)
        _put(target, local, values)


def _part_of(level: SavedLevel, name: str) -> str:
    if name == "positions":
        return level.positions
    return level.rows if name in _READ_FOR_PREDICTION else level.optimizer
