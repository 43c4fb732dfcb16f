"""The label head whose rows never travel: each rank owns rows, features come to them and gradients go back.

1. Features, leaf ids and true labels go to the owners of the wanted leaves (`routing`).
2. Each rank scores the pairs (text, leaf) that it owns, takes the loss and both gradients and updates its rows, all in
   one visit of each row (`cxml.optim.row_kernels`).
3. Partial gradients of the features, and losses, go back to the texts' ranks and are added up there.

Per step a rank sends each of its B texts, D + K values, to at most K owners, and D + 1 come back from each; the cost
does not depend on the number of labels.
Here rows live in host memory and are worked on by the CPU, whatever the encoder's device; `TritonRowsHead` keeps them
on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxml.config import HeadConfig, OptimConfig
from cxml.data import lengths_to_offsets
from cxml.model import Leaves
from cxml.model.ranking import scores_of
from cxml.optim import RowSchedule, RowState, best_rows, settled_weights, train_groups, update_rows
from cxml.parallel.exchange import Exchange
from cxml.parallel.leaf_groups import LeafGroups
from cxml.parallel.magnitude import Magnitude, largest
from cxml.parallel.routing import Arrived, Route
from cxml.parallel.row_layout import RowLayout
from cxml.parallel.sparse_gradients import SparseGradients, clip_factor

_BLOCK_ROWS = 65536  # handed out at once
_KEEP, _UPDATE, _WRITE_GRADIENTS = 0, 1, 2


@dataclass(frozen=True)
class _Texts:
    """The texts of all ranks: what `_gather` brings together.

    Attributes:
        features: float32 [B, D], where the rows are worked on.
        leaves: int64 [B, K], -1 where there is none.
        leaf_logits: float32 [B, K].
        counts: texts of each rank.
    """

    features: Tensor
    leaves: np.ndarray
    leaf_logits: np.ndarray
    counts: list[int]


@dataclass(frozen=True)
class WantedRows:
    """The P pairs (text, leaf) to score among the rows of one rank; see `cxml.optim.best_rows`.

    Attributes:
        leaf_ptr: int64 [B + 1]; text b has the pairs leaf_ptr[b] .. leaf_ptr[b + 1].
        first_rows: int64 [P], first local row of the leaf.
        last_rows: int64 [P], one past its last.
        leaf_logits: float32 [P]; its probability is a factor of its rows' scores, infinity leaves them as they are.
        shift: int64 [P], label position minus local row.
    """

    leaf_ptr: np.ndarray
    first_rows: np.ndarray
    last_rows: np.ndarray
    leaf_logits: np.ndarray
    shift: np.ndarray

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arguments of the compiled loops."""
        return self.leaf_ptr, self.first_rows, self.last_rows, self.leaf_logits, self.shift


class RowsHead:
    """One rank's rows of the label head; satisfies `cxml.model.LabelHead`. Every method is a collective call.

    Weights start at zero, which is the same for any number of ranks: a linear classifier needs no random start.
    """

    def __init__(
        self,
        layout: RowLayout,
        width: int,
        exchange: Exchange,
        head: HeadConfig,
        optim: OptimConfig,
        *,
        copies: Exchange | None = None,
        accumulation: int = 1,
        trains: bool = True,
    ) -> None:
        """Allocate the rows.

        Args:
            layout: the rows that this rank owns.
            width: D, width of the features.
            exchange: the ranks that share the rows.
            head: optimiser and number formats of the rows.
            optim: betas, epsilon and decay.
            copies: the ranks that hold the same rows, for other texts; None if there is but this.
            accumulation: micro-batches per step.
            trains: False leaves out what only training needs.
        """
        self.layout = layout
        self.exchange = exchange
        self.copies = copies or Exchange(is_alone=True)
        self.state = RowState.zeros(
            layout.num_rows,
            width,
            optimizer=head.optimizer,
            weights=head.weights,
            second_moment=head.second_moment,
            trains=trains,
        )
        self.state.bias[:] = self.initial_bias()
        self.schedule = RowSchedule(
            decay=optim.classifier_weight_decay,
            beta2=optim.beta2,
            epsilon=optim.epsilon,
            clip_row_norm=head.clip_row_norm,
        )
        self._optimizer, self._width = head.optimizer, width
        self._clip_norm = head.clip_global_norm
        # Else gradients are kept until the step ends, and all of its gradients are there.
        self._is_fused = accumulation == 1 and self.copies.size == 1 and not head.clip_global_norm
        self._pending = SparseGradients(width + 1)
        self._magnitude = Magnitude()

    def initial_bias(self) -> float:
        """Where biases start: few of a shortlist's labels are true, as in `cxml.model.LevelHead`."""
        return -4.0

    def loss(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,
        positive_keys: Tensor,
        scale: float,
        losses_above: Tensor | None = None,
    ) -> Tensor:
        """See `LabelHead.loss`. With gradients enabled it also updates the rows, or keeps their gradients."""
        learns = torch.is_grad_enabled() and self._all_finite(losses_above)
        if learns and not features_BD.requires_grad:
            features_BD = features_BD.detach().requires_grad_()  # rows learn from a frozen encoder too
        return _RowsLoss.apply(features_BD, self, leaves, positive_keys, scale, learns)

    def predict(self, features_BD: Tensor, leaves: Leaves | None, k: int, *, weighted: bool) -> tuple[Tensor, Tensor]:
        """See `LabelHead.predict`. Each rank ranks its own rows; the k best of each are merged."""
        texts = self._gather(features_BD, leaves)
        if not weighted or leaves is None:
            texts.leaf_logits.fill(np.inf)
        own = self.layout.owns(texts.leaves) & (texts.leaves >= 0)
        local = texts.leaves[own] // self.layout.num_shards
        first = self.layout.local_starts[local]
        wanted = WantedRows(
            leaf_ptr=lengths_to_offsets(own.sum(1)),
            first_rows=first,
            last_rows=self.layout.local_starts[local + 1],
            leaf_logits=texts.leaf_logits[own],
            shift=self.layout.leaf_offsets[texts.leaves[own]] - first,
        )
        keys, positions = self.best_of(texts.features, wanted, k)
        positions, keys = self._merge(keys, positions, texts.counts, k, features_BD.device)
        return positions, scores_of(keys)

    def place(self, features: Tensor) -> Tensor:
        """The features where the rows are worked on."""
        return features.cpu()

    def train_groups(
        self, groups: LeafGroups, features_BD: Tensor, inverse_counts: np.ndarray, is_true: np.ndarray, *,
        scale: float, mode: int,
    ) -> tuple[Tensor, np.ndarray]:  # fmt: skip
        """Loss, gradients and update of this rank's pairs; see `cxml.optim.train_groups`.

        Returns:
            Its float32 [B, D + 1]; the gradients of the n touched rows, float32 [n, D + 1], if they are to be written.
        """
        kept = np.empty((groups.row_ptr[-1] if mode == _WRITE_GRADIENTS else 0, features_BD.shape[1] + 1), np.float32)
        partial_sums = groups.partial_sums(len(features_BD)).arrays()
        sums = train_groups(
            groups.arrays(), partial_sums, features_BD.numpy(), inverse_counts, is_true, np.float32(scale), mode,
            self.schedule.pack(), self.schedule.log_decay, tuple(vars(self.state).values()), kept,
        )  # fmt: skip
        return torch.from_numpy(sums), kept

    def best_of(self, features_BD: Tensor, wanted: WantedRows, k: int) -> tuple[Tensor, Tensor]:
        """The k best of this rank's rows: `ranking_keys` int64 [B, k] and label positions int64 [B, k], -1 for none."""
        state = tuple(vars(self.state).values())
        keys, positions = best_rows(
            features_BD.numpy(), *wanted.arrays(), k, self.schedule.log_decay, self.schedule.step, state
        )
        return torch.from_numpy(keys), torch.from_numpy(positions)

    def finish_step(self) -> None:
        """Update the rows with the gradients that the step's micro-batches left, if that was not done in passing."""
        if self._is_fused:
            return
        rows, gradients = self._pending.take(self.copies)
        gradients *= clip_factor(float(np.vdot(gradients, gradients)), self._clip_norm, self.exchange)
        self.update_touched(rows, gradients)

    def update_touched(self, rows: np.ndarray, gradients: np.ndarray) -> None:
        """Update distinct rows, int64 [n], with their gradients, float32 [n, D + 1], the bias last."""
        update_rows(
            self.state,
            self.schedule,
            rows=rows,
            gradients=np.ascontiguousarray(gradients[:, :-1]),
            bias_gradients=np.ascontiguousarray(gradients[:, -1]),
            row_ids=self.layout.positions()[rows],
        )

    def export_rows(self) -> Iterator[dict[str, Tensor]]:
        """This rank's rows, in blocks: `positions` int64 [n], `weight` float32 [n, D], `bias` float32 [n].

        Of several copies only the first hands its rows out; the others have none.
        """
        positions = self.layout.positions()
        for start in range(0, self.layout.num_rows if self.copies.rank == 0 else 0, _BLOCK_ROWS):
            own = slice(start, start + _BLOCK_ROWS)
            yield {
                "positions": torch.from_numpy(positions[own].copy()),
                "weight": torch.from_numpy(settled_weights(self.state, self.schedule, own)),
                "bias": torch.from_numpy(self.state.bias[own].copy()),
            }

    def own_positions(self) -> Tensor:
        """See `LabelHead.own_positions`."""
        return torch.from_numpy(self.layout.positions())

    def gather_positives(self, features_BD: Tensor, positive_keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `LabelHead.gather_positives`: the texts of all ranks that share the rows."""
        features, counts = self.gather_features(features_BD)
        return features, *self.own_positives(positive_keys, counts)

    def sum_over_copies(self, tensor: Tensor) -> Tensor:
        """See `LabelHead.sum_over_copies`."""
        return self.copies.sum_alike(tensor)

    def import_rows(self, positions: Tensor, weight: Tensor, bias: Tensor) -> int:
        """See `LabelHead.import_rows`."""
        rows = self.layout.local_rows(positions.numpy())
        own = rows >= 0
        values = weight.float().numpy()[own]
        if self.state.weight.dtype == np.uint16:
            values = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
        self.state.weight[rows[own]] = values
        self.state.bias[rows[own]] = bias.float().numpy()[own]
        self._magnitude.forget()
        if self.state.compensation.size:
            self.state.compensation[rows[own]] = 0
        return int(own.sum())

    def train(
        self, features_BD: Tensor, leaves: Leaves | None, positive_keys: Tensor, scale: float, *, updates: bool
    ) -> Tensor:
        """Loss, gradients and update; float32 [B, D + 1]: the features' gradient, and each text's loss last.

        If the step may leave the range of float32, the rows stay as they are and the losses are infinite or NaN.
        """
        nodes, _ = self._wanted_leaves(leaves, len(features_BD))
        route = Route(self.exchange, self.layout, nodes.numpy(), positive_keys.cpu().numpy())
        placed = self.place(features_BD.detach())
        found = route.agree(largest(placed), scale * route.inverse_sum)
        arrived, features = route.send(), route.send_features(placed).float()
        groups, is_true = self._group(arrived)
        overflows = updates and not self.admits(float(found[:, 0].max()), float(found[:, 1].sum()))
        mode = (_UPDATE if self._is_fused else _WRITE_GRADIENTS) if updates and not overflows else _KEEP
        sums, kept = self.train_groups(groups, features, arrived.inverse_counts, is_true, scale=scale, mode=mode)
        if overflows:
            sums[:, -1] += torch.inf
        if mode == _WRITE_GRADIENTS:
            self._pending.add(groups.rows, kept)
        return route.bring_back(sums)

    def admits(self, largest_feature: float, factor: float) -> bool:
        """Whether the step's update is sure to be finite, alike on all ranks that share the rows: see `Magnitude`.

        Args:
            largest_feature: absolute, of the texts of all ranks.
            factor: what a feature is at most multiplied by in a row's gradient.
        """
        if not self._magnitude.is_known:
            self._magnitude.measure(self.state, self.exchange)
        is_adam = self._optimizer == "adamw"
        return self._magnitude.admits(largest_feature, factor, self._width, self.schedule, is_adam=is_adam)

    def _all_finite(self, losses: Tensor | None) -> bool:
        """Whether these are finite on all ranks that share the rows."""
        is_finite = losses is None or bool(losses.isfinite().all())
        return bool(self.exchange.gather_sizes(int(is_finite)).all())

    def gather_features(self, features_BD: Tensor) -> tuple[Tensor, list[int]]:
        """Features of all ranks, float32 [B, D], and how many each has."""
        counts = self.exchange.gather_sizes(len(features_BD))[:, 0].tolist()
        return self.exchange.gather_rows(features_BD.detach(), counts).float(), counts

    def own_positives(self, positive_keys: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """The true labels among this rank's rows, in the rows' order: texts int64 [P] and rows int64 [P]."""
        keys = positive_keys.cpu() + sum(counts[: self.exchange.rank]) * self.layout.num_labels
        sizes = self.exchange.gather_sizes(len(keys))[:, 0].tolist()
        gathered = self.exchange.gather_rows(keys, sizes).numpy()
        rows = self.layout.local_rows(gathered % self.layout.num_labels)
        order = np.argsort(rows, kind="stable")[np.count_nonzero(rows < 0) :]
        return torch.from_numpy(gathered[order] // self.layout.num_labels), torch.from_numpy(rows[order])

    def _gather(self, features_BD: Tensor, leaves: Leaves | None) -> _Texts:
        """The texts of all ranks."""
        nodes, logits = self._wanted_leaves(leaves, len(features_BD))
        sizes = self.exchange.gather_sizes(len(features_BD), nodes.shape[1])
        counts, widths = sizes[:, 0].tolist(), sizes[:, 1].tolist()
        padding = (0, max(widths) - nodes.shape[1])
        nodes = torch.nn.functional.pad(nodes, padding, value=-1)
        return _Texts(
            features=self.exchange.gather_rows(self.place(features_BD.detach()), counts).float(),
            leaves=self.exchange.gather_rows(nodes.int(), counts).long().numpy(),
            leaf_logits=self.exchange.gather_rows(torch.nn.functional.pad(logits, padding), counts).numpy(),
            counts=counts,
        )

    def _wanted_leaves(self, leaves: Leaves | None, num_texts: int) -> tuple[Tensor, Tensor]:
        if leaves is None:
            every = torch.arange(len(self.layout.leaf_offsets) - 1).repeat(num_texts, 1)
            return every, torch.ones(every.shape)
        return leaves.nodes.masked_fill(~leaves.mask, -1).cpu(), leaves.logits.cpu()

    def _group(self, arrived: Arrived) -> tuple[LeafGroups, np.ndarray]:
        """The pairs that arrived, by leaf; and which of the groups' scores are of a true label, uint8 [scores]."""
        order = np.argsort(arrived.pair_leaves, kind="stable")  # within a leaf the texts stay in order
        leaves, first, group_of = np.unique(arrived.pair_leaves[order], return_index=True, return_inverse=True)
        starts, ends = self.layout.local_starts[leaves], self.layout.local_starts[leaves + 1]
        pair_ptr = np.append(first, len(order)).astype(np.int64)
        groups = LeafGroups(
            starts=starts,
            ends=ends,
            position_shift=self.layout.leaf_offsets[leaves * self.layout.num_shards + self.layout.shard] - starts,
            pair_ptr=pair_ptr,
            pair_texts=arrived.pair_texts[order],
            score_ptr=lengths_to_offsets((ends - starts) * np.diff(pair_ptr)),
            row_ptr=lengths_to_offsets(ends - starts),
        )
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        place = place[arrived.true_pairs]
        group = group_of[place]
        is_true = np.zeros(groups.score_ptr[-1], np.uint8)
        width = np.diff(pair_ptr)[group]
        is_true[groups.score_ptr[group] + arrived.true_rows * width + place - pair_ptr[group]] = 1
        return groups, is_true

    def _merge(
        self, ranking: Tensor, positions: Tensor, counts: list[int], k: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The k highest of every rank's `ranking` [texts of all ranks, k], for this rank's texts, with positions."""
        num_all = len(ranking)
        every = [num_all] * self.exchange.size
        start = sum(counts[: self.exchange.rank])
        own = slice(start, start + counts[self.exchange.rank])
        gathered_ranking = self.exchange.gather_rows(ranking, every)
        gathered_positions = self.exchange.gather_rows(positions, every)
        stacked_ranking = gathered_ranking.view(-1, num_all, k)[:, own].transpose(0, 1).flatten(1)
        stacked_positions = gathered_positions.view(-1, num_all, k)[:, own].transpose(0, 1).flatten(1)
        best = stacked_ranking.topk(k, dim=1)
        return stacked_positions.gather(1, best.indices).to(device), best.values.to(device)


class _RowsLoss(torch.autograd.Function):
    """The summed loss, whose gradient the head has already computed when it returns."""

    @staticmethod
    def forward(ctx, features_BD, head, leaves, positive_keys, scale, learns):  # noqa: ANN001, ANN205, PLR0917
        sums = head.train(features_BD, leaves, positive_keys, scale, updates=learns)
        ctx.save_for_backward(sums[:, :-1].to(features_BD.device, features_BD.dtype))
        return sums[:, -1].sum().to(features_BD.device)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ANN001, ANN205
        (feature_gradient,) = ctx.saved_tensors
        return gradient.to(feature_gradient.dtype) * feature_gradient, None, None, None, None, None
