"""The operators of `triton_row_ops` in plain torch with the same results, for CPUs without Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cxml.model.ranking import ranking_keys
from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors
from cxml.optim.row_values import RowArrays
from cxml.optim.torch_kernels import TorchAllRowsKernels, TorchShortlistKernels, all_logits


def shortlist_loss(
    sums: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor], most_rows: int,
    log_decay: Tensor, step: int, by_pair: bool,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_shortlist_loss`."""
    candidates = _pairs(pairs)
    if by_pair:  # every pair is a separate text
        texts = candidates.texts
        candidates = replace(
            candidates, features=candidates.features[texts.long()], texts=torch.arange(len(texts), dtype=texts.dtype)
        )
    sums += TorchShortlistKernels().loss(
        _rows(rows), _leaves(leaf_rows, most_rows), candidates, _schedule(log_decay, step)
    )


def shortlist_squares(
    sums: Tensor, slopes: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor],  # noqa: ARG001
    most_rows: int, log_decay: Tensor, step: int, scale: float,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_shortlist_squares`."""
    sums.zero_()[0, 0] = TorchShortlistKernels().squares(
        _rows(rows), _leaves(leaf_rows, most_rows), _pairs(pairs), _schedule(log_decay, step), scale
    )


def shortlist_update(
    rows: Sequence[Tensor], slopes: Tensor, pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor], most_rows: int,  # noqa: ARG001
    log_decay: Tensor, step: int, scale: float, hyperparameters: Sequence[float], factor: Tensor, is_finite: Tensor,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_shortlist_update`."""
    TorchShortlistKernels().update(
        _rows(rows), _leaves(leaf_rows, most_rows), _pairs(pairs), _schedule(log_decay, step, hyperparameters), scale,
        factor=factor, is_finite=is_finite,
    )  # fmt: skip


def shortlist_scores(
    logits: Tensor, positions: Tensor, rows: Sequence[Tensor], pairs: Sequence[Tensor], leaf_rows: Sequence[Tensor],
    log_decay: Tensor, step: int,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_shortlist_scores`."""
    found = TorchShortlistKernels().scores(
        _rows(rows), _leaves(leaf_rows, logits.shape[1]), _pairs(pairs), _schedule(log_decay, step), step
    )
    logits.copy_(found[0].masked_fill(found[1] < 0, 0))
    positions.copy_(found[1])


def segment_sum(sums: Tensor, parts: Tensor, order: Tensor, bounds: Tensor) -> None:
    """See `triton_row_ops.launch_segment_sum`."""
    texts = torch.arange(len(sums)).repeat_interleave(bounds.diff())
    sums.zero_().index_add_(0, texts, parts[order])


def all_rows_loss(
    sums: Tensor, rows: Sequence[Tensor], texts: Sequence[Tensor], bounds: Tensor, log_decay: Tensor, step: int,  # noqa: ARG001
    rows_per_share: int,  # noqa: ARG001
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_all_rows_loss`."""
    sums.zero_()[0] = TorchAllRowsKernels().loss(_rows(rows), _no_leaves(), AllRows(*texts), _schedule(log_decay, step))


def all_rows_squares(
    sums: Tensor, slopes: Tensor, rows: Sequence[Tensor], texts: Sequence[Tensor], bounds: Tensor, log_decay: Tensor,  # noqa: ARG001
    step: int, scale: float,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_all_rows_squares`."""
    sums.zero_()[0] = TorchAllRowsKernels().squares(
        _rows(rows), _no_leaves(), AllRows(*texts), _schedule(log_decay, step), scale
    )


def all_rows_update(
    rows: Sequence[Tensor], slopes: Tensor, texts: Sequence[Tensor], bounds: Tensor, leaf_rows: Sequence[Tensor],  # noqa: ARG001
    log_decay: Tensor, step: int, scale: float, hyperparameters: Sequence[float], factor: Tensor,
    is_finite: Tensor,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_all_rows_update`."""
    TorchAllRowsKernels().update(
        _rows(rows), _leaves(leaf_rows), AllRows(*texts), _schedule(log_decay, step, hyperparameters), scale,
        factor=factor, is_finite=is_finite,
    )  # fmt: skip


def all_rows_keys(
    keys: Tensor, rows: Sequence[Tensor], features: Tensor, leaf_rows: Sequence[Tensor], first_row: int,
    log_decay: Tensor, step: int,
) -> None:  # fmt: skip
    """See `triton_row_ops.launch_all_rows_keys`."""
    run = slice(first_row, first_row + keys.shape[1])
    chunk = RowTensors(**{name: tensor[run] for name, tensor in vars(_rows(rows)).items()})
    no_labels = torch.zeros(0, dtype=torch.int64)
    logits, _ = all_logits(
        chunk, AllRows(features, no_labels, no_labels, torch.zeros(len(features))), _schedule(log_decay, step), step
    )
    positions = _leaves(leaf_rows).row_positions(len(rows[1]))[run]
    keys.copy_((ranking_keys(logits, logits) >> 32 << 32) + 0xFFFFFFFF - positions)


def _rows(rows: Sequence[Tensor]) -> RowTensors:
    return RowTensors(**dict(zip(RowArrays._fields, rows, strict=True)))


def _pairs(pairs: Sequence[Tensor]) -> Shortlists:
    features, leaves, texts, shares, truth = pairs
    return Shortlists(features, leaves, texts, shares, truth)


def _leaves(leaf_rows: Sequence[Tensor], most_rows: int = 0) -> LeafRows:
    starts, positions = leaf_rows
    return LeafRows(starts, positions, most_rows)


def _no_leaves() -> LeafRows:
    return LeafRows(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)


def _schedule(
    log_decay: Tensor, step: int, hyperparameters: Sequence[float] = (0.0, 0.0, 0.0, 1.0, 0.0)
) -> RowSchedule:
    lr, beta1, beta2, epsilon, clip = hyperparameters
    return RowSchedule(
        decay=0.0, beta2=beta2, epsilon=epsilon, clip_row_norm=clip, step=step, lr=lr, beta1=beta1, log_decay=log_decay
    )
