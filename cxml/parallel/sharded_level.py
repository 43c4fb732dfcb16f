"""A sharded level of the tree: each rank owns rows, receives features and returns gradients.

1. Features, with the leaves and true rows of each text, are sent to the owners of the rows (`routing`).
2. Each rank scores the received texts on its rows, and computes the loss and the features' gradient (`cxml.optim`).
3. Partial gradients of the features, and losses, are returned to the texts' ranks and summed there.
4. The rows are updated: on a CPU while they are scored, if nothing else is pending; otherwise at the end of the step,
   from the stored inputs of each micro-batch, and only if the step is finite.

Per step a rank sends each of its B texts, D numbers and K leaves, to at most K owners, and receives D + 1 numbers from
each, so the cost does not depend on the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cxml.accelerators import current_device
from cxml.config import HeadConfig, OptimConfig
from cxml.data import BatchLimits
from cxml.model import Leaves, SelectionRule
from cxml.model.heads import INITIAL_BIAS
from cxml.model.ranking import scores_of
from cxml.optim import (
    AllRows,
    RowKernels,
    RowSchedule,
    RowTensors,
    ShortlistKernels,
    Shortlists,
    current_weights,
)
from cxml.parallel.exchange import Exchange
from cxml.parallel.magnitude import Magnitude, is_bounded
from cxml.parallel.node_selection import best_nodes, choose
from cxml.parallel.pending_update import PendingUpdate
from cxml.parallel.routing import Dispatch, dispatch_texts, dispatch_to_all
from cxml.parallel.row_layout import RowLayout, Shard, own_rows

_BLOCK_ROWS = 65536  # rows of a block of an export


class ShardedLevel:
    """One rank's rows of a level; satisfies `cxml.model.LabelHead`. Every method is a collective call.

    Weights are initialised to zero, which is the same for any number of ranks; a linear classifier needs no random
    initialisation.

    Attributes:
        layout: the rows that this rank owns.
        exchange: the ranks that share the rows.
        replicas: the ranks that hold the same rows, for other texts.
        on_device: whether rows are processed on the features' device, else by the CPU.
        rows: this rank's rows, on the device if they are processed there, else in host memory.
        schedule: schedule of the rows' update.
    """

    def __init__(
        self,
        layout: RowLayout,
        width: int,
        exchange: Exchange,
        head: HeadConfig,
        optim: OptimConfig,
        *,
        kernels: RowKernels,
        on_device: bool = False,
        schedule: RowSchedule | None = None,
        replicas: Exchange | None = None,
        accumulation: int = 1,
        trains: bool = True,
        is_last: bool = True,
        rows: RowTensors | None = None,
    ) -> None:
        """Allocate the rows.

        Args:
            layout: the rows that this rank owns.
            width: D, width of the features.
            exchange: the ranks that share the rows.
            head: optimiser, number formats and candidates of the rows.
            optim: betas, epsilon and decay.
            kernels: of shortlists or of all rows, as `head.candidates` says.
            on_device: whether rows are processed on the features' device, else in host memory by the CPU.
            schedule: of the rows' update, shared with other levels; None makes one.
            replicas: the ranks that hold the same rows, for other texts; None for a single replica.
            accumulation: micro-batches per step.
            trains: False leaves out what only training needs.
            is_last: whether a step scores no other level after this one.
            rows: existing rows, which the level uses; None allocates new ones.
        """
        self.layout, self.exchange, self.replicas = layout, exchange, replicas or Exchange(is_alone=True)
        self._kernels, self.on_device = kernels, on_device
        self._scores_all = head.candidates == "all"
        self._optimizer, self._width, self._clip_norm = head.optimizer, width, head.clip_global_norm
        self._shards: dict[torch.device, Shard] = {}
        if rows is None:
            rows = RowTensors.zeros(
                layout.num_rows, width, current_device() if on_device else torch.device("cpu"),
                optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment, trains=trains,
            )  # fmt: skip
            rows.bias.fill_(self.initial_bias())
        self.rows = rows
        self.schedule = schedule or RowSchedule(
            decay=optim.classifier_weight_decay,
            beta2=optim.beta2,
            epsilon=optim.epsilon,
            clip_row_norm=head.clip_row_norm,
        )
        # Otherwise the update waits for the end of the step, when all losses and gradients are known.
        waits = not is_last or accumulation > 1 or self.replicas.size > 1 or head.clip_global_norm
        self._fuses_update = kernels.fuses_update and not waits
        self._pending = PendingUpdate()
        self._one: Tensor | None = None
        self._magnitude = Magnitude(exchange, is_adam=head.optimizer == "adamw")

    def initial_bias(self) -> float:
        """The initial bias, which is low because few rows are true for a text.

        For shortlists, it is that of `cxml.model.LevelHead`. If all rows are scored, it is the logit of about one true
        row in all, so that the false rows do not outweigh it.
        """
        return -math.log(max(2, self.layout.num_labels)) if self._scores_all else INITIAL_BIAS

    def loss(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        positive_keys: Tensor,
        scale: float,
        *,
        losses_above: Sequence[Tensor] | None = None,
        limits: BatchLimits | None = None,
    ) -> Tensor:
        """See `LabelHead.loss`. With gradients enabled it also updates the rows, or prepares their update."""
        dispatch = self._dispatch(features_BD, leaves, positive_keys, limits)
        return self._loss(features_BD, dispatch, scale, losses_above)

    def loss_and_choice(
        self,
        features_BD: Tensor,
        above: Leaves | None,
        positive_keys: Tensor,
        scale: float,
        selection: SelectionRule,
        *,
        losses_above: Sequence[Tensor] | None = None,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Leaves]:
        """See `ClusterLevel.loss_and_choice`."""
        dispatch = self._dispatch(features_BD, above, positive_keys, limits)
        rows, shard = self._rows_on(dispatch.candidates.features.device)
        kernels, candidates = cast(ShortlistKernels, self._kernels), cast(Shortlists, dispatch.candidates)
        scores = kernels.scores(rows, shard.leaf_rows, candidates, self.schedule, self.schedule.scoring_step)
        chosen = choose(cast("Dispatch[Shortlists]", dispatch), *scores, selection)
        return self._loss(features_BD, dispatch, scale, losses_above), chosen.to(features_BD.device)

    def predict(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        k: int,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `LabelHead.predict`. Each rank ranks its own rows; the k best of each are merged."""
        dispatch = self._dispatch(features_BD, leaves, None, limits, weighted=weighted)
        rows, shard = self._rows_on(dispatch.candidates.features.device)
        best = self._kernels.best(rows, shard.leaf_rows, dispatch.candidates, self.schedule, k, dispatch.parent_logits)
        keys, positions = dispatch.combine_best(*best)
        return positions.to(features_BD.device), scores_of(keys).to(features_BD.device)

    def best_and_choice(
        self,
        features_BD: Tensor,
        above: Leaves | None,
        k: int,
        selection: SelectionRule,
        *,
        weighted: bool,
        limits: BatchLimits | None = None,
    ) -> tuple[Tensor, Tensor, Leaves]:
        """See `ClusterLevel.best_and_choice`."""
        dispatch = self._dispatch(features_BD, above, None, limits, weighted=weighted)
        rows, shard = self._rows_on(dispatch.candidates.features.device)
        kernels, candidates = cast(ShortlistKernels, self._kernels), cast(Shortlists, dispatch.candidates)
        logits, positions = kernels.scores(rows, shard.leaf_rows, candidates, self.schedule, self.schedule.step)
        chosen = choose(cast("Dispatch[Shortlists]", dispatch), logits, positions, selection)
        keys, nodes = best_nodes(cast("Dispatch[Shortlists]", dispatch), logits, positions, k)
        device = features_BD.device
        return nodes.to(device), scores_of(keys).to(device), chosen.to(device)

    def is_bounded(self) -> Tensor | None:
        """Whether the pending update is guaranteed to be finite, bool []; None if none is pending."""
        largest, is_adam = self._pending.largest_feature, self._optimizer == "adamw"
        if largest is None:
            return None
        factor = self._pending.factor * self.replicas.size
        return is_bounded(largest, factor, self._width, self.schedule, is_adam=is_adam)

    def _is_bounded_here(self) -> bool:
        """`is_bounded` for rows on the CPU, where it needs no wait; True for rows on an accelerator."""
        bounded = None if self.on_device else self.is_bounded()
        return bounded is None or bool(bounded)

    def finish_step(self, is_finite: Tensor) -> None:
        """Update the rows from the stored inputs of the step's micro-batches, unless they were updated while scored.

        Args:
            is_finite: bool [], equal on all ranks; False leaves the rows unchanged.
        """
        self.schedule.end_step(is_finite.to(self.schedule.log_decay.device))
        found = self._pending.take(self.replicas)
        if found is None:
            return
        candidates, scale = found
        rows, shard = self._rows_on(candidates.features.device)
        self._kernels.update(
            rows, shard.leaf_rows, candidates, self.schedule, scale,
            factor=self._clip_factor(rows, shard, candidates, scale), is_finite=is_finite.to(rows.bias.device),
        )  # fmt: skip

    def export_rows(self) -> Iterator[dict[str, Tensor]]:
        """This rank's rows, in blocks: `positions` int64 [n], `weight` float32 [n, D], `bias` float32 [n].

        The blocks are copies in host memory. Of several replicas of the rows, only the first yields them.
        """
        positions = torch.from_numpy(self.layout.positions())
        for start in range(0, self.layout.num_rows if self.replicas.rank == 0 else 0, _BLOCK_ROWS):
            own = slice(start, start + _BLOCK_ROWS)
            weight, bias = self._current_rows(own)
            yield {"positions": positions[own].clone(), "weight": weight, "bias": bias.clone()}

    def gather_rows(self, is_wanted: bool) -> tuple[Tensor, Tensor]:
        """All rows of the level, float32 [n, D] and [n], on the CPU of a rank that wants them; a collective call."""
        size = self.layout.num_labels if is_wanted else 0
        weight, bias = torch.zeros(size, self._width), torch.zeros(size)
        positions = self.layout.positions()  # rising, so that a block's are a run of them
        for start in range(0, self.layout.num_labels, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, self.layout.num_labels)
            own = slice(*np.searchsorted(positions, (start, stop)).tolist())
            block = torch.zeros(stop - start, self._width + 1)
            place = torch.from_numpy(positions[own] - start)
            block[place, :-1], block[place, -1] = self._current_rows(own)
            self.exchange.all_reduce(block)
            if is_wanted:
                weight[start:stop], bias[start:stop] = block[:, :-1], block[:, -1]
        return weight, bias

    def own_positions(self) -> Tensor:
        """See `LabelHead.own_positions`."""
        return torch.from_numpy(self.layout.positions())

    def gather_positives(self, features_BD: Tensor, positive_keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `LabelHead.gather_positives`: the texts of all ranks that share the rows."""
        shard = self._shard_on(features_BD.device)
        arrived = dispatch_to_all(self.exchange, shard, features_BD.detach(), positive_keys=positive_keys).candidates
        own = arrived.true_rows < self.layout.num_rows
        return arrived.features.float(), arrived.true_texts[own], arrived.true_rows[own]

    def sum_over_replicas(self, tensor: Tensor) -> Tensor:
        """See `LabelHead.sum_over_replicas`."""
        return self.replicas.all_reduce(tensor)

    def import_rows(self, positions: Tensor, weight: Tensor, bias: Tensor) -> int:
        """See `LabelHead.import_rows`."""
        found = own_rows(self._shard_on(torch.device("cpu")), positions.cpu())
        own = found < self.layout.num_rows
        device, kept = self.rows.device, own.to(weight.device)
        local = found[own].to(device)
        self.rows.fill(local, weight[kept].to(device))
        self.rows.bias[local] = bias[kept].to(device, torch.float32)
        self._magnitude.forget()
        return len(local)

    def _place(self, features_BD: Tensor) -> Tensor:
        """The features on the device that processes the rows."""
        return features_BD.detach() if self.on_device else features_BD.detach().float().cpu()

    def _rows_on(self, device: torch.device) -> tuple[RowTensors, Shard]:
        """The rows and their layout on a device."""
        if self.rows.device != device:  # rows of a file, or for features of another device than this process's
            self.rows.move(device)
        self.schedule.log_decay = self.schedule.log_decay.to(device)
        return self.rows, self._shard_on(device)

    def _current_rows(self, run: slice) -> tuple[Tensor, Tensor]:
        """Current weights, float32 [n, D], and biases, float32 [n], of a range of rows, in host memory."""
        self.schedule.log_decay = self.schedule.log_decay.to(self.rows.device)
        return current_weights(self.rows, self.schedule, run).cpu(), self.rows.bias[run].cpu()

    def _shard_on(self, device: torch.device) -> Shard:
        """The layout on a device, copied there once."""
        if device not in self._shards:
            self._shards[device] = Shard.of(self.layout, device)
        return self._shards[device]

    def _dispatch(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        positive_keys: Tensor | None,
        limits: BatchLimits | None,
        *,
        weighted: bool = False,
    ) -> Dispatch[Shortlists] | Dispatch[AllRows]:
        """Send texts to the owners of what they are scored on."""
        features = self._place(features_BD)
        _, shard = self._rows_on(features.device)
        return dispatch_texts(
            self.exchange, shard, features, leaves, positive_keys=positive_keys, limits=limits,
            scores_all=self._scores_all, weighted=weighted, has_replicas=self.replicas.size > 1,
        )  # fmt: skip

    def _loss(
        self,
        features_BD: Tensor,
        dispatch: Dispatch[Shortlists] | Dispatch[AllRows],
        scale: float,
        losses_above: Sequence[Tensor] | None,
    ) -> Tensor:
        """The summed loss; the rows are updated, or their update is prepared."""
        candidates, update_scale, is_admitted = dispatch.candidates, None, True
        if torch.is_grad_enabled() and not self._fuses_update:
            self._pending.add(candidates, scale)
        elif torch.is_grad_enabled():
            is_admitted = self._magnitude.admits(self.rows, features_BD, losses_above, scale, self.schedule)
            update_scale = scale if is_admitted else None
        rows, shard = self._rows_on(candidates.features.device)
        sums = self._kernels.loss(rows, shard.leaf_rows, candidates, self.schedule, update_scale=update_scale)
        if not (is_admitted and self._is_bounded_here()):
            sums[:, -1] += torch.inf  # so that no later level updates its rows while it scores them
        if torch.is_grad_enabled() and not features_BD.requires_grad:
            features_BD = features_BD.detach().requires_grad_()  # rows learn from a frozen encoder too
        return _KnownGradient.apply(features_BD, dispatch.combine(sums))

    def _clip_factor(self, rows: RowTensors, shard: Shard, candidates: Shortlists | AllRows, scale: float) -> Tensor:
        """The factor that clips the norm of the gradients of all shards' rows, float32 []."""
        if not self._clip_norm:
            if self._one is None:
                self._one = torch.ones((), device=rows.bias.device)
            return self._one
        square = self._kernels.squares(rows, shard.leaf_rows, candidates, self.schedule, scale)
        norm = self.exchange.all_reduce(square).sqrt()
        return (self._clip_norm / norm).clamp(max=1).float()


class _KnownGradient(torch.autograd.Function):
    """The summed loss of texts: `sums` float32 [B, D + 1] has the gradient of their features, and their losses last."""

    @staticmethod
    def forward(ctx, features_BD, sums):  # noqa: ANN001, ANN205
        ctx.save_for_backward(sums[:, :-1].to(features_BD.device, features_BD.dtype))
        return sums[:, -1].sum().to(features_BD.device)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ANN001, ANN205
        (feature_gradient,) = ctx.saved_tensors
        return gradient.to(feature_gradient.dtype) * feature_gradient, None
