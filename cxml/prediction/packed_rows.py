"""Label rows for prediction only: weights of 4, 2 or 1 bytes, in memory or memory-mapped.

fp32   as trained
bf16   rounded to nearest
fp8    e4m3 times a scale per row, of 4 bytes; see `cxml.optim.row_formats`
int8   each row divided by its largest weight / 127 and rounded to nearest, with a scale of 4 bytes per row
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cxml import artefacts, storage
from cxml.artefacts import FileEntry, MappedFile
from cxml.config import HeadConfig, OptimConfig
from cxml.data import BatchLimits
from cxml.errors import ConfigError, DataError
from cxml.model import Leaves
from cxml.optim import (
    CpuShortlistKernels,
    LeafRows,
    RowSchedule,
    RowState,
    RowTensors,
    Shortlists,
    as_array,
    best_int8_rows,
    pending_decay,
    wanted_leaves,
)
from cxml.optim.row_formats import NEAREST_FP8, to_float32, to_fp8
from cxml.parallel import Exchange, RowLayout, ShardedLevel, make_level
from cxml.prediction.mapped_tensors import are_finite, view_tensors

RowFormat = Literal["fp32", "bf16", "fp8", "int8"]
_DTYPES: dict[RowFormat, type[np.generic]] = {
    "fp32": np.float32, "bf16": np.uint16, "fp8": np.uint8, "int8": np.int8
}  # fmt: skip
_SCALED = ("fp8", "int8")
_BLOCK_ROWS = 65536


@dataclass(frozen=True, eq=False)
class PackedRows:
    """R label rows of D weights.

    Attributes:
        weight: float32 [R, D], uint16 [R, D] holding bfloat16, uint8 [R, D] holding e4m3, or int8 [R, D].
        scale: float32 [R], factor of each row's weights for fp8 and int8; [0] else.
        bias: float32 [R].
    """

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @property
    def format(self) -> RowFormat:
        """Number format of the weights."""
        return next(name for name, dtype in _DTYPES.items() if self.weight.dtype == dtype)

    @property
    def num_bytes(self) -> int:
        """Memory in bytes."""
        return self.weight.nbytes + self.scale.nbytes + self.bias.nbytes

    def to(self, target: RowFormat) -> PackedRows:
        """Convert the rows to another format, block by block; returns self if the format is the same.

        Raises:
            ConfigError: the format does not exist.
        """
        if target not in tuple(_DTYPES):
            raise ConfigError("rows", target, "is not a number format of label rows", f"Choose {', '.join(_DTYPES)}.")
        if target == self.format:
            return self
        num_rows, width = self.weight.shape
        packed = PackedRows(
            np.empty((num_rows, width), _DTYPES[target]),
            np.ones(num_rows if target in _SCALED else 0, np.float32),
            self.bias,
        )
        for start in range(0, num_rows, _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            packed.weight[rows], scale = _packed(self.floats(rows), target)
            if target in _SCALED:
                packed.scale[rows] = scale
        return packed

    def take(self, rows: np.ndarray) -> PackedRows:
        """Some rows, int64 [n], in memory."""
        return PackedRows(self.weight[rows], self.scale[rows] if self.scale.size else self.scale, self.bias[rows])

    def floats(self, rows: slice) -> np.ndarray:
        """Weights of some rows as float32 [n, D]."""
        weight = self.weight[rows]
        return weight * self.scale[rows, None] if self.format == "int8" else to_float32(weight, self.scale[rows])


def read_rows(url: str, entry: FileEntry, shape: tuple[int, int], remedy: str) -> tuple[PackedRows, MappedFile | None]:
    """The label rows in a safetensors file of the folder `url`, checked against its entry in the manifest.

    Args:
        url: path or URL of the folder.
        entry: of the file.
        shape: the rows and their width, L and D.
        remedy: how to fix a damaged file, for the error message.

    Returns:
        The rows; and, for a local folder, the mapped file of their weights.

    Raises:
        DataError: the file is missing or damaged, or contains other rows, or values that are NaN or infinite.
    """
    file = storage.join(url, entry.file)
    if storage.local_path(url) is None:
        mapped = None
        content = np.frombuffer(bytearray(artefacts.read_file(url, entry, remedy)), np.uint8)
    else:
        mapped = MappedFile(artefacts.open_file(url, entry, remedy), file, entry, remedy, is_writable=True)
        content = mapped.content
    found = view_tensors(content, file, remedy)
    if mapped is not None:
        mapped.verify()
    sizes = {"weight": shape, "bias": shape[:1]}
    is_scaled = "weight" in found and any(found["weight"].dtype == _DTYPES[name] for name in _SCALED)
    expected = sizes | ({"scale": shape[:1]} if is_scaled else {})
    if {name: values.shape for name, values in found.items()} != expected or any(
        found[name].dtype != np.float32 for name in expected.keys() - {"weight"}
    ):
        shapes = {name: values.shape for name, values in found.items()}
        raise DataError(file, f"contains {shapes}, not {shape[0]} label rows of {shape[1]}"[:500], remedy)
    if not all(are_finite(values) for values in found.values()):
        raise DataError(file, "label rows contain values that are NaN or infinite", remedy)
    scale = np.array(found["scale"]) if is_scaled else np.zeros(0, np.float32)
    return PackedRows(found["weight"], scale, np.array(found["bias"])), mapped


def pack(head: ShardedLevel) -> PackedRows:
    """The rows of a trained head in its number format, with pending decay applied.

    The result shares the head's host memory if no conversion is needed.
    """
    rows, bias = head.rows, as_array(head.rows.bias.cpu())
    if rows.scale.numel():
        scale = rows.scale * pending_decay(rows, slice(None), head.schedule, head.schedule.step)
        return PackedRows(as_array(rows.weight.cpu()), as_array(scale.cpu()), bias)
    if not head.schedule.step:
        return PackedRows(as_array(rows.weight.cpu()), np.zeros(0, np.float32), bias)
    weight = np.empty(rows.weight.shape, np.float32)
    start = 0
    for block in head.export_rows():
        values = block["weight"].numpy()
        weight[start : start + len(values)] = values
        start += len(values)
    return PackedRows(weight, np.zeros(0, np.float32), bias)


def prediction_head(rows: PackedRows, layout: RowLayout, exchange: Exchange, *, scores_all: bool) -> ShardedLevel:
    """A head that predicts from `rows` without a copy.

    Args:
        rows: rows of this rank.
        layout: layout of the rows.
        exchange: the ranks that share the label rows.
        scores_all: score every label instead of a shortlist.
    """
    if rows.format == "int8":
        return _Int8Level(rows, layout, exchange, scores_all=scores_all)
    head = HeadConfig(candidates="all" if scores_all else "shortlist")
    return make_level(
        layout, rows.weight.shape[1], exchange, head, OptimConfig(), trains=False, rows=_host_tensors(rows)
    )  # fmt: skip


class _Int8Kernels(CpuShortlistKernels):
    """Ranking of int8 rows, which are never trained."""

    def __init__(self, rows: PackedRows) -> None:
        self._rows = rows

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, k: int,  # noqa: ARG002
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        own, wanted = self._rows, wanted_leaves(leaf_rows, candidates, parent_logits)
        keys, positions = best_int8_rows(candidates.features.numpy(), wanted, k, own.weight, own.scale, own.bias)
        return torch.from_numpy(keys), torch.from_numpy(positions)


class _Int8Level(ShardedLevel):
    """A level of int8 rows."""

    def __init__(self, rows: PackedRows, layout: RowLayout, exchange: Exchange, *, scores_all: bool) -> None:
        super().__init__(
            layout, rows.weight.shape[1], exchange, HeadConfig(), OptimConfig(),
            kernels=_Int8Kernels(rows), trains=False, rows=_host_tensors(rows),
        )  # fmt: skip
        self._rows = rows
        self._takes_all = scores_all

    def predict(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        k: int,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `ShardedLevel.predict`."""
        wanted = None if self._takes_all else leaves
        return super().predict(features_BD, wanted, k, weighted=weighted, limits=limits)

    def export_rows(self) -> Iterator[dict[str, Tensor]]:
        """See `ShardedLevel.export_rows`."""
        positions = self.layout.positions()
        for start in range(0, len(positions), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            yield {
                "positions": torch.from_numpy(positions[rows].copy()),
                "weight": torch.from_numpy(self._rows.floats(rows)),
                "bias": torch.from_numpy(self._rows.bias[rows].copy()),
            }


def _host_tensors(rows: PackedRows) -> RowTensors:
    empty = RowState.zeros(
        0, rows.weight.shape[1], optimizer="sgd", weights="fp32", second_moment="full", trains=False
    )  # fmt: skip
    num_rows = len(rows.bias)
    empty.weight, empty.bias = rows.weight, rows.bias
    empty.last_step, empty.updates = np.zeros(num_rows, np.int32), np.zeros(num_rows, np.int32)
    empty.moment = empty.second = np.zeros((num_rows, 0), np.float32)
    empty.bias_moments = np.zeros((0, 2), np.float32)
    empty.compensation = np.zeros((num_rows, 0), np.uint8)
    empty.scale = rows.scale if rows.format == "fp8" else np.zeros(0, np.float32)
    return RowTensors.of(empty, torch.device("cpu"))


def _packed(values: np.ndarray, target: RowFormat) -> tuple[np.ndarray, np.ndarray | None]:
    if target == "int8":
        largest = np.abs(values).max(axis=1, initial=0)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        return np.rint(values / scale[:, None]).astype(np.int8), scale
    if target == "fp8":
        bits, scale = to_fp8(torch.from_numpy(values), NEAREST_FP8)
        return bits.numpy(), scale.numpy()
    if target == "bf16":
        return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy(), None
    return values, None
