"""The Triton kernels of a sharded level as torch operators, see `cxml.triton_operators`.

Numbers that change in every step are passed by value.

Tensor lists, in this order: `rows` are those of `RowArrays`, `pairs` those of `Shortlists`, `texts` the tensors
of `AllRows`, `leaf_rows` those of `LeafRows`. `hyperparameters` are lr, beta1, beta2, epsilon and the largest norm of
a row's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from cxml import triton_operators
from cxml.optim import triton_stand_ins as stand_ins
from cxml.optim.row_values import RowArrays
from cxml.optim.triton_all_rows import all_rows_keys, all_rows_loss, all_rows_squares, all_rows_update
from cxml.optim.triton_shortlist import (
    segment_sum,
    shortlist_loss,
    shortlist_scores,
    shortlist_squares,
    shortlist_update,
)
from cxml.triton_operators import grid, operator

LEAF_ROWS = 16  # rows of a tile of a leaf: the minimum of a matrix product
LEVEL_ROWS = 32  # rows of a tile of a whole level
LEVEL_TEXTS = 32
_TEXTS = 16
_MOST_PARTS = 4  # see all_rows_loss
_MOST_COLUMNS = 1024  # columns whose gradients a program of all_rows_loss keeps
_SHORTLIST = "Tensor[] rows, Tensor[] pairs, Tensor[] leaf_rows, int most_rows, Tensor log_decay, int step"
_ALL_ROWS = "Tensor[] rows, Tensor[] texts, Tensor bounds, Tensor log_decay, int step"


@operator(f"Tensor(a!) sums, {_SHORTLIST}, bool by_pair", ["sums"], stand_ins.shortlist_loss)
def launch_shortlist_loss(
    sums: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor], most_rows: int,
    log_decay: Tensor, step: int, by_pair: bool,
) -> None:  # fmt: skip
    """Add the features' gradients and losses to float32 [S, D + 1], or [P, D + 1] by pair."""
    features, leaves, texts, shares, truth = pairs
    weight, bias, _, _, _, last_step, _, _, scales = rows
    splits = 1 if by_pair else leaf_splits(most_rows)
    grid(shortlist_loss, len(leaves), splits)(
        leaves, texts, shares, truth, leaf_rows[0], features, weight, bias, last_step, scales, log_decay, sums,
        len(leaves), len(leaf_rows[1]), truth.shape[1], step,
        TEXTS=_TEXTS, BY_PAIR=by_pair, **_tiles(weight, LEAF_ROWS), **_limits(weight, 4, 128),
    )  # fmt: skip


@operator(
    f"Tensor(a!) sums, Tensor(b!) slopes, {_SHORTLIST}, float scale", ["sums", "slopes"], stand_ins.shortlist_squares
)
def launch_shortlist_squares(
    sums: Tensor, slopes: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor],
    most_rows: int, log_decay: Tensor, step: int, scale: float,
) -> None:  # fmt: skip
    """Write sums of squares of the rows' gradients, float64 [splits, P]; slopes: scratch float32 [splits, P, 16]."""
    features, leaves, texts, shares, truth = pairs
    weight, bias, _, _, _, last_step, _, _, scales = rows
    grid(shortlist_squares, len(leaves), leaf_splits(most_rows))(
        leaves, texts, shares, truth, leaf_rows[0], features, weight, bias, last_step, scales, log_decay, slopes, sums,
        len(leaves), len(leaf_rows[1]), truth.shape[1], step, scale,
        TEXTS=_TEXTS, **_tiles(weight, LEAF_ROWS), **_limits(weight, 4, 128),
    )  # fmt: skip


@operator(
    "Tensor(a!)[] rows, Tensor(b!) slopes, Tensor[] pairs, Tensor[] leaf_rows, int most_rows, Tensor log_decay, "
    "int step, float scale, float[] hyperparameters, Tensor factor, Tensor is_finite",
    ["rows", "slopes"], stand_ins.shortlist_update,
)  # fmt: skip
def launch_shortlist_update(
    rows: Sequence[Tensor], slopes: Tensor, pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor], most_rows: int,
    log_decay: Tensor, step: int, scale: float, hyperparameters: Sequence[float], factor: Tensor, is_finite: Tensor,
) -> None:  # fmt: skip
    """Update the touched rows; slopes: scratch float32 [splits, P, 16]."""
    features, leaves, texts, shares, truth = pairs
    grid(shortlist_update, len(leaves), leaf_splits(most_rows))(
        leaves, texts, shares, truth, *leaf_rows, features, *rows, log_decay, slopes, factor,
        is_finite.view(torch.uint8), len(leaves), len(leaf_rows[1]), truth.shape[1], step, scale,
        *_by_value(hyperparameters),
        TEXTS=_TEXTS, **_tiles(rows[0], LEAF_ROWS), **_format(rows, hyperparameters), **_limits(rows[0], 4, 128),
    )  # fmt: skip


@operator(
    "Tensor(a!) logits, Tensor(b!) positions, Tensor[] rows, Tensor[] pairs, Tensor[] leaf_rows, Tensor log_decay, "
    "int step",
    ["logits", "positions"], stand_ins.shortlist_scores,
)  # fmt: skip
def launch_shortlist_scores(
    logits: Tensor, positions: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor],
    log_decay: Tensor, step: int,
) -> None:  # fmt: skip
    """Write logits, float32 [P, W], and positions, int64 [P, W]."""
    features, leaves, texts, _, _ = pairs
    weight, bias, _, _, _, last_step, _, _, scales = rows
    width = logits.shape[1]
    tiles = _tiles(weight, LEAF_ROWS)
    del tiles["IS_BF16"]
    grid(shortlist_scores, len(leaves), leaf_splits(width))(
        leaves, texts, *leaf_rows, features, weight, bias, last_step, scales, log_decay, logits, positions,
        len(leaves), len(leaf_rows[1]), step, width, TEXTS=_TEXTS, **tiles, **_limits(weight, 4, 168, 3),
    )  # fmt: skip


@operator("Tensor(a!) sums, Tensor parts, Tensor order, Tensor bounds", ["sums"], stand_ins.segment_sum)
def launch_segment_sum(sums: Tensor, parts: Tensor, order: Tensor, bounds: Tensor) -> None:
    """Write the sums of each text's parts, [S, D + 1], in a fixed order; see `segment_sum`."""
    block = 256
    grid(segment_sum, len(sums), triton.cdiv(sums.shape[1], block))(
        parts, order, bounds, sums, sums.shape[1], BLOCK=block
    )


@operator(f"Tensor(a!) sums, {_ALL_ROWS}, int rows_per_share", ["sums"], stand_ins.all_rows_loss)
def launch_all_rows_loss(
    sums: Tensor, rows: Sequence[Tensor], texts: Sequence[Tensor], bounds: Tensor, log_decay: Tensor, step: int,
    rows_per_share: int,
) -> None:  # fmt: skip
    """Write the features' gradients and losses by share of the rows, float32 [shares, B, D + 1]."""
    features, true_rows, true_texts, shares = texts
    weight, bias, _, _, _, last_step, _, _, scales = rows
    width = weight.shape[1]
    part = max(16, triton.next_power_of_2(triton.cdiv(min(width, _MOST_COLUMNS), _MOST_PARTS)))
    parts = min(_MOST_PARTS, triton.cdiv(width, part))
    # At D 768 on sm_90 the compiler spills with e4m3 rows and 64 columns for features in bfloat16, 128 for float32.
    is_small = weight.dtype == torch.uint8 and features.dtype == torch.bfloat16
    tiles = _tiles(weight, loss_rows(weight), 128 if is_small else 64)
    grid(all_rows_loss, triton.cdiv(len(features), LEVEL_TEXTS), len(sums), triton.cdiv(width, part * parts))(
        true_rows, true_texts, bounds, features, weight, bias, last_step, scales, log_decay, sums,
        len(features), len(bias), rows_per_share, step, shares,
        TEXTS=LEVEL_TEXTS, PART=part, PARTS=parts, **tiles, **_limits(weight, 8, 255),
    )  # fmt: skip


@operator(
    f"Tensor(a!) sums, Tensor(b!) slopes, {_ALL_ROWS}, float scale", ["sums", "slopes"], stand_ins.all_rows_squares
)
def launch_all_rows_squares(
    sums: Tensor, slopes: Tensor, rows: Sequence[Tensor], texts: Sequence[Tensor], bounds: Tensor, log_decay: Tensor,
    step: int, scale: float,
) -> None:  # fmt: skip
    """Write the sums of squares of the rows' gradients, float64 [programs]; slopes: scratch [programs, B, 32]."""
    features, true_rows, true_texts, shares = texts
    weight, bias, _, _, _, last_step, _, _, scales = rows
    grid(all_rows_squares, len(sums))(
        true_rows, true_texts, bounds, features, weight, bias, last_step, scales, log_decay, slopes, sums,
        len(features), len(bias), step, shares, scale,
        TEXTS=LEVEL_TEXTS, **_tiles(weight, LEVEL_ROWS, 32), **_limits(weight, 8, 128),
    )  # fmt: skip


@operator(
    "Tensor(a!)[] rows, Tensor(b!) slopes, Tensor[] texts, Tensor bounds, Tensor[] leaf_rows, Tensor log_decay, "
    "int step, float scale, float[] hyperparameters, Tensor factor, Tensor is_finite",
    ["rows", "slopes"], stand_ins.all_rows_update,
)  # fmt: skip
def launch_all_rows_update(
    rows: Sequence[Tensor], slopes: Tensor, texts: Sequence[Tensor], bounds: Tensor, leaf_rows: Sequence[Tensor],
    log_decay: Tensor, step: int, scale: float, hyperparameters: Sequence[float], factor: Tensor,
    is_finite: Tensor,
) -> None:  # fmt: skip
    """Update all rows; slopes: scratch float32 [programs, B, 32]."""
    features, true_rows, true_texts, shares = texts
    grid(all_rows_update, len(slopes))(
        true_rows, true_texts, bounds, *leaf_rows, features, *rows, log_decay, slopes, factor,
        is_finite.view(torch.uint8), len(features), len(rows[1]), len(leaf_rows[1]), step, shares, scale,
        *_by_value(hyperparameters),
        TEXTS=LEVEL_TEXTS, **_tiles(rows[0], LEVEL_ROWS, 32), **_format(rows, hyperparameters),
        **_limits(rows[0], 8, 128),
    )  # fmt: skip


@operator(
    "Tensor(a!) keys, Tensor[] rows, Tensor features, Tensor[] leaf_rows, int first_row, Tensor log_decay, int step",
    ["keys"], stand_ins.all_rows_keys,
)  # fmt: skip
def launch_all_rows_keys(
    keys: Tensor, rows: Sequence[Tensor], features: Tensor, leaf_rows: Sequence[Tensor], first_row: int,
    log_decay: Tensor, step: int,
) -> None:  # fmt: skip
    """Write keys int64 [B, width] of the rows from `first_row` on; see `all_rows_keys`."""
    weight, bias, _, _, _, last_step, _, _, scales = rows
    tiles = _tiles(weight, LEVEL_ROWS)
    del tiles["IS_BF16"]
    grid(all_rows_keys, triton.cdiv(keys.shape[1], LEVEL_ROWS), triton.cdiv(len(keys), LEVEL_TEXTS))(
        *leaf_rows, features, weight, bias, last_step, scales, log_decay, keys,
        len(keys), len(bias), len(leaf_rows[1]), first_row, keys.shape[1], step,
        TEXTS=LEVEL_TEXTS, **tiles, **_limits(weight, 8, 255, 3),
    )  # fmt: skip


def leaf_splits(most_rows: int) -> int:
    """Programs that share the rows of a leaf."""
    return max(1, min(4, triton.cdiv(most_rows, LEAF_ROWS)))


def loss_rows(weight: Tensor) -> int:
    """Rows of a tile of `all_rows_loss`, chosen to leave registers for the gradients of a program's texts."""
    return 16 if weight.dtype == torch.float32 else 32


def _tiles(weight: Tensor, num_rows: int, widest: int = 64) -> dict[str, Any]:
    """Compile-time arguments of kernels besides optimiser and rounding; `widest` is the maximum columns of a block."""
    width = weight.shape[1]
    widest = widest if triton_operators.IS_COMPILED else 512  # the interpreter's time is per operation, for any size
    block = min(widest, max(16, triton.next_power_of_2(width)))
    return {"WIDTH": width, "BLOCK": block, "ROWS": num_rows, "IS_BF16": weight.dtype != torch.float32}


def _format(rows: Sequence[Tensor], hyperparameters: Sequence[float]) -> dict[str, Any]:
    """Additional compile-time arguments of updates."""
    by_name = dict(zip(RowArrays._fields, rows, strict=True))
    _, _, _, _, clip_row_norm = hyperparameters
    kind = 0 if not by_name["moment"].shape[1] else 1 if by_name["second"].shape[1] == 1 else 2
    return {"SECOND": kind, "IS_KAHAN": by_name["compensation"].shape[1] > 0, "CLIPS": clip_row_norm > 0}


def _by_value(hyperparameters: Sequence[float]) -> tuple[float, ...]:
    """lr, log(beta1), 1 - beta1, log(beta2), 1 - beta2, epsilon and the largest norm.

    Logarithms and differences are computed in float64 and passed in float32, so 1 - beta ** n has an error of one unit
    in the last place of float32 for any n.
    """
    lr, beta1, beta2, epsilon, clip = hyperparameters
    log1, log2 = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2))
    return lr, log1, 1 - beta1, log2, 1 - beta2, epsilon, clip


def _limits(weight: Tensor, num_warps: int, registers: int, num_stages: int = 2) -> dict[str, int]:
    """Options of the compiler: warps of a program, registers of a thread, and pipelined blocks of columns.

    With 128 registers, 512 threads run concurrently: four programs of four warps, or two of eight. Only NVIDIA devices
    support a limit; without it the compiler spills to make room for more programs.
    """
    is_nvidia = weight.device.type in {"cuda", "cpu"} and not torch.version.hip  # the interpreter ignores options
    limit = {"maxnreg": registers} if is_nvidia else {}
    return {"num_warps": num_warps, "num_stages": num_stages} | limit
