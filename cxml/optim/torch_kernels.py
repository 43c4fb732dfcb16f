"""The kernels of a sharded level in plain PyTorch on any device, the reference for tests of the others.

Weights and gradients of all pairs of a block are in memory at once, which is simple but slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cxml.fused import is_fused
from cxml.model.ranking import NO_KEY, pair_keys, ranking_keys
from cxml.optim.candidates import WORD_BITS, AllRows, LeafRows, Shortlists
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors, pending_decay, update_run

_SCORES_AT_ONCE = 2**15


@dataclass(frozen=True)
class _Scores:
    """Some pairs and all rows of the leaves with the most rows, W.

    Attributes:
        texts: int64 [p].
        rows: int64 [p, W]; 0 where the leaf has fewer.
        exists: bool [p, W].
        weight: float32 [p, W, D], with pending decay applied.
        logits: float32 [p, W].
    """

    texts: Tensor
    rows: Tensor
    exists: Tensor
    weight: Tensor
    logits: Tensor


class TorchShortlistKernels:
    """`RowKernels` of shortlists."""

    fuses_update = False

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, *,
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        assert update_scale is None, "these kernels update rows after the loss"
        features = candidates.features.float()
        sums = features.new_zeros(len(features), features.shape[1] + 1)
        for own, scores in _scores(rows, leaf_rows, candidates, schedule, schedule.scoring_step):
            slopes, losses = _slopes(candidates, own, scores)
            gradients = torch.einsum("pw,pwd->pd", slopes, scores.weight)
            sums.index_add_(0, scores.texts, torch.cat([gradients, losses.sum(1, keepdim=True)], dim=1))
        return sums

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float
    ) -> Tensor:
        """See `RowKernels.squares`."""
        gradients, _ = self._gradients(rows, leaf_rows, candidates, schedule)
        return (gradients * scale).double().square().sum()

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        gradients, touches = self._gradients(rows, leaf_rows, candidates, schedule)
        row_ids = leaf_rows.row_positions(len(gradients))
        _replace(rows, schedule, gradients * (scale * factor), row_ids, (touches > 0) & is_finite)

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        logits, positions = self.scores(rows, leaf_rows, candidates, schedule, schedule.step)
        return best_of_pairs(candidates, logits, positions, k, parent_logits)

    def scores(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, step: int
    ) -> tuple[Tensor, Tensor]:
        """See `ShortlistKernels.scores`."""
        _, _, positions = leaf_rows.of_pairs(candidates.leaves)
        logits = [scores.logits for _, scores in _scores(rows, leaf_rows, candidates, schedule, step)]
        return torch.cat([rows.bias.new_zeros(0, leaf_rows.most_rows), *logits]), positions

    def _gradients(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule
    ) -> tuple[Tensor, Tensor]:
        """The gradients of all rows, touched or not, float32 [R, D + 1], and how many texts touch each, int64 [R]."""
        features = F.pad(candidates.features.float(), (0, 1), value=1.0)
        gradients = features.new_zeros(len(rows.bias), features.shape[1])
        touches = torch.zeros(len(rows.bias), dtype=torch.int64, device=features.device)
        for own, scores in _scores(rows, leaf_rows, candidates, schedule, schedule.scoring_step):
            slopes, _ = _slopes(candidates, own, scores)
            of_rows = slopes[:, :, None] * features[scores.texts][:, None, :]
            gradients.index_add_(0, scores.rows.flatten(), of_rows.flatten(0, 1))
            touches.index_add_(0, scores.rows.flatten(), scores.exists.flatten().long())
        return gradients, touches


class TorchAllRowsKernels:
    """`RowKernels` of all rows."""

    fuses_update = False

    def loss(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, *,  # noqa: ARG002
        update_scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.loss`."""
        assert update_scale is None, "these kernels update rows after the loss"
        slopes, losses, weight = self._slopes(rows, candidates, schedule)
        return torch.cat([slopes @ weight, losses.sum(1, keepdim=True)], dim=1)

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """See `RowKernels.squares`."""
        return (self._gradients(rows, candidates, schedule) * scale).double().square().sum()

    def update(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, scale: float, *,
        factor: Tensor, is_finite: Tensor,
    ) -> None:  # fmt: skip
        """See `RowKernels.update`."""
        gradients = self._gradients(rows, candidates, schedule) * (scale * factor)
        _replace(rows, schedule, gradients, leaf_rows.row_positions(len(gradients)), is_finite.expand(len(gradients)))

    def best(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: AllRows, schedule: RowSchedule, k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `RowKernels.best`."""
        assert parent_logits is None, "no text chooses leaves"
        logits, _ = all_logits(rows, candidates, schedule, schedule.step)
        keys = ranking_keys(logits, logits)
        positions = leaf_rows.row_positions(len(rows.bias)).expand_as(keys)
        texts = torch.arange(len(keys), device=keys.device)[:, None].expand_as(keys)
        return best_per_text(len(keys), texts.flatten(), keys.flatten(), positions.flatten(), k)

    def _gradients(self, rows: RowTensors, candidates: AllRows, schedule: RowSchedule) -> Tensor:
        slopes, _, _ = self._slopes(rows, candidates, schedule)
        return slopes.T @ F.pad(candidates.features.float(), (0, 1), value=1.0)

    def _slopes(self, rows: RowTensors, candidates: AllRows, schedule: RowSchedule) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives by the logits and losses, both float32 [B, R], and the weights that were scored [R, D]."""
        logits, weight = all_logits(rows, candidates, schedule, schedule.scoring_step)
        truth = torch.zeros(len(logits), logits.shape[1] + 1, device=logits.device)
        truth[candidates.true_texts, candidates.true_rows] = 1
        truth = truth[:, :-1]
        shares = candidates.shares[:, None]
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * shares
        return (logits.sigmoid() - truth) * shares, losses, weight


def best_of_pairs(
    candidates: Shortlists, logits: Tensor, positions: Tensor, k: int, parent_logits: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`RowKernels.best` from logits, float32 [P, W], and positions, int64 [P, W], -1 for a missing row."""
    keys = pair_keys(logits, positions, parent_logits)
    texts = candidates.texts[:, None].expand_as(keys)
    return best_per_text(len(candidates.features), texts.flatten(), keys.flatten(), positions.flatten(), k)


def best_per_text(num_texts: int, texts: Tensor, keys: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest keys of each text; ties are sorted by position.

    Three stable sorts avoid padding to the longest list of a text.

    Args:
        num_texts: S.
        texts: int [n], the text of each candidate.
        keys: int64 [n], `NO_KEY` where there is no candidate.
        positions: int64 [n].
        k: number of keys per text.

    Returns:
        Keys int64 [S, k] and positions int64 [S, k], best first; `NO_KEY` and -1 where there is none.
    """
    place = positions.argsort(stable=True)
    place = place[keys[place].argsort(descending=True, stable=True)]
    of_text, order = texts[place].sort(stable=True)
    if is_fused(keys):
        from cxml.model import triton_ranking_ops  # noqa: PLC0415 - optional

        best, found = (keys.new_empty(num_texts, k) for _ in range(2))
        triton_ranking_ops.launch_take_best(best, found, of_text, order, place, keys, positions)
        return best, found
    place = F.pad(place[order], (0, 1))
    bounds = torch.searchsorted(of_text, torch.arange(num_texts + 1, device=texts.device, dtype=texts.dtype))
    chosen = bounds[:-1, None] + torch.arange(k, device=texts.device)
    is_there = chosen < bounds[1:, None]
    chosen = place[chosen.clamp(max=len(texts))]
    padded_keys, padded_positions = F.pad(keys, (0, 1), value=NO_KEY), F.pad(positions, (0, 1), value=-1)
    best = padded_keys[chosen].masked_fill(~is_there, NO_KEY)
    return best, padded_positions[chosen].masked_fill(best == NO_KEY, -1)


def _scores(
    rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, step: int
) -> Iterator[tuple[slice, _Scores]]:
    """Blocks of pairs and their scores, with rows as of the end of `step`."""
    width = leaf_rows.most_rows
    at_once = max(1, _SCORES_AT_ONCE // max(1, width))
    columns = torch.arange(width, device=leaf_rows.starts.device)
    for first in range(0, len(candidates.leaves), at_once):
        own = slice(first, first + at_once)
        first_rows, _, positions = leaf_rows.of_pairs(candidates.leaves[own])
        exists = positions >= 0
        chosen = (first_rows[:, None] + columns).masked_fill(~exists, 0)
        weight = rows.floats(chosen) * pending_decay(rows, chosen, schedule, step)[..., None]
        texts = candidates.texts[own].long()
        logits = torch.einsum("pwd,pd->pw", weight, candidates.features[texts].float()) + rows.bias[chosen]
        yield own, _Scores(texts, chosen, exists, weight, logits)


def _slopes(candidates: Shortlists, own: slice, scores: _Scores) -> tuple[Tensor, Tensor]:
    """Derivatives of the losses by the logits and the losses, both float32 [p, W]; 0 where there is no row."""
    columns = torch.arange(scores.logits.shape[1], device=scores.logits.device)
    words = candidates.truth[own][:, columns // WORD_BITS]
    truth = (words.bitwise_right_shift(columns.int() % WORD_BITS) & 1).float()
    shares = candidates.shares[own][:, None] * scores.exists
    losses = F.binary_cross_entropy_with_logits(scores.logits, truth, reduction="none") * shares
    return (scores.logits.sigmoid() - truth) * shares, losses


def all_logits(rows: RowTensors, candidates: AllRows, schedule: RowSchedule, step: int) -> tuple[Tensor, Tensor]:
    """Logits float32 [B, R], and the weights with pending decay applied, float32 [R, D]."""
    weight = rows.floats(slice(None)) * pending_decay(rows, slice(None), schedule, step)[:, None]
    return candidates.features.float() @ weight.T + rows.bias, weight


def _replace(rows: RowTensors, schedule: RowSchedule, gradients: Tensor, row_ids: Tensor, chosen: Tensor) -> None:
    """Update the chosen rows, bool [R], with their gradients, float32 [R, D + 1]."""
    updated = RowTensors(**{name: tensor.clone() for name, tensor in vars(rows).items()})
    update_run(
        updated, slice(None), schedule, gradients=gradients[:, :-1], bias_gradients=gradients[:, -1], row_ids=row_ids
    )  # fmt: skip
    for name, tensor in vars(rows).items():
        if not tensor.numel():  # of a state that keeps no such numbers
            continue
        is_chosen = chosen[:, None] if tensor.ndim > 1 else chosen
        tensor.copy_(torch.where(is_chosen, getattr(updated, name), tensor))
