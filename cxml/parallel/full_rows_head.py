"""The same label rows, but every text is scored on all of them: no shortlist, one product of matrices after another.

A rank visits its rows in chunks: logits of all texts, their gradient sigmoid(logit) - truth with the few true labels
taken off, both products with it, the rows' update. Logits live as long as their chunk. (Renee, Jain et al. 2023; ELMO.)

A text's loss is the sum over all labels divided by at most a thousand: among many labels a true one weighs as much as
in a shortlist of the usual length, and learning rates stay what they are. Runs on any device; so do the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cxml.model import Leaves
from cxml.optim import RowTensors, pending_decay, update_rows, update_run
from cxml.parallel.device_rows_head import DeviceRowsHead
from cxml.parallel.magnitude import largest
from cxml.parallel.sparse_gradients import clip_factor

_USUAL_SHORTLIST = 1000
_CHUNK_ROWS = {"cpu": 512}  # a chunk and its update stay in a core's cache
_CHUNK_ROWS_ELSEWHERE = 65536
_PREDICTED_AT_ONCE = 2**20  # logits of a chunk


class FullRowsHead(DeviceRowsHead):
    """One rank's rows, each scored for every text; takes the arguments of `RowsHead`, and ignores leaves."""

    _summed: Tensor | None = None

    def initial_bias(self) -> float:
        """One true label is expected per text, so that all the others together do not outweigh it."""
        return -math.log(max(2, self.layout.num_labels))

    def train(
        self,
        features_BD: Tensor,
        leaves: Leaves | None,  # noqa: ARG002
        positive_keys: Tensor,
        scale: float,
        *,
        updates: bool,
    ) -> Tensor:
        """See `RowsHead.train`."""
        features, counts = self.gather_features(features_BD)
        texts, true_rows = self.own_positives(positive_keys, counts)
        share = 1 / min(self.layout.num_labels, _USUAL_SHORTLIST)
        overflows = updates and not self.admits(largest(features), scale * share * len(features))
        updates = updates and not overflows
        rows, positions = self.rows_on(features.device)
        sums = features.new_zeros(len(features), features.shape[1] + 1)
        if updates and not self._is_fused and self._summed is None:
            self._summed = features.new_zeros(self.layout.num_rows, features.shape[1] + 1)
        for run, true in self._chunks(true_rows, features.device):
            weight, settled, logits = self._logits(rows, run, features, max(self.schedule.step - 1, 0))
            place = texts[true].to(logits.device), true_rows[true].to(logits.device) - run.start
            loss = F.softplus(logits).sum(1).index_add_(0, place[0], logits[place], alpha=-1)
            slope = logits.sigmoid_()
            slope[place] -= 1
            slope *= share
            sums[:, :-1] += (slope * settled).to(weight.dtype) @ weight
            sums[:, -1] += loss * share
            if updates:
                self._learn(rows, run, positions[run], (slope.T @ features) * scale, slope.sum(0) * scale)
        if overflows:
            sums[:, -1] += torch.inf
        return self.exchange.sum_rows(sums, counts)

    def predict(self, features_BD: Tensor, leaves: Leaves | None, k: int, *, weighted: bool) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The k best of all labels, by their own probability; see `LabelHead.predict`."""
        features, counts = self.gather_features(features_BD)
        rows, positions = self.rows_on(features.device)
        best = features.new_full((len(features), k), -torch.inf)
        places = torch.full(best.shape, -1, dtype=torch.int64, device=features.device)
        size = _CHUNK_ROWS_ELSEWHERE
        if features.device.type == "cpu":
            # Nothing is updated, so a chunk need not stay in the cache; few texts are not to wait for many small ones.
            size = min(size, max(_CHUNK_ROWS["cpu"], _PREDICTED_AT_ONCE // max(1, len(features))))
        for run, _ in self._chunks(torch.zeros(0, dtype=torch.int64), features.device, size):
            _, _, logits = self._logits(rows, run, features, self.schedule.step)
            here = logits.topk(min(k, logits.shape[1]), dim=1)
            both = torch.cat([best, here.values], dim=1).topk(k, dim=1)
            places = torch.cat([places, positions[run][here.indices]], dim=1).gather(1, both.indices)
            best = both.values
        return self._merge(best, places, counts, k, features_BD.device)

    def finish_step(self) -> None:
        """See `RowsHead.finish_step`; until then 4 (D + 1) bytes are kept per row."""
        if self._summed is None:
            return
        gradients, self._summed = self.copies.sum_alike(self._summed), None
        gradients *= clip_factor(float(gradients.square().sum(dtype=torch.float64)), self._clip_norm, self.exchange)
        rows, positions = self.rows_on(gradients.device)
        for run, _ in self._chunks(torch.zeros(0, dtype=torch.int64), gradients.device):
            self._update(rows, run, positions[run], gradients[run, :-1], gradients[run, -1])

    def _learn(self, rows: RowTensors, run: slice, row_ids: Tensor, gradients: Tensor, bias_gradients: Tensor) -> None:
        """Update the rows of a run, or keep their gradients."""
        if self._is_fused:
            self._update(rows, run, row_ids, gradients, bias_gradients)
            return
        assert self._summed is not None, "train begins with zeros"
        self._summed[run, :-1] += gradients
        self._summed[run, -1] += bias_gradients

    def _update(self, rows: RowTensors, run: slice, row_ids: Tensor, gradients: Tensor, bias_gradients: Tensor) -> None:
        """Update the rows of a run: on the CPU by the compiled loop, which visits a row once, else by torch."""
        if gradients.device.type != "cpu":
            update_run(rows, run, self.schedule, gradients=gradients, bias_gradients=bias_gradients, row_ids=row_ids)
            return
        update_rows(
            self._host_state,
            self.schedule,
            rows=np.arange(run.start, run.stop),
            gradients=np.ascontiguousarray(gradients.numpy()),
            bias_gradients=np.ascontiguousarray(bias_gradients.numpy()),
            row_ids=row_ids.numpy(),
        )

    def _logits(self, rows: RowTensors, run: slice, features: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of a run of n rows: weights [n, D] to multiply by, the decay they still take [n], float32 logits [B, n]."""
        weight = rows.weight[run]
        if weight.device.type == "cpu":
            weight = weight.float()  # where bfloat16 products are slow
        settled = pending_decay(rows, run, self.schedule, step)
        logits = (features.to(weight.dtype) @ weight.T).float() * settled + rows.bias[run]
        return weight, settled, logits

    def _chunks(self, true_rows: Tensor, device: torch.device, size: int = 0) -> Iterator[tuple[slice, slice]]:
        """Runs of `size` rows, by default what suits training, and which of the sorted `true_rows` lie in each."""
        size = size or _CHUNK_ROWS.get(device.type, _CHUNK_ROWS_ELSEWHERE)
        bounds = [*range(0, self.layout.num_rows, size), self.layout.num_rows]
        cuts = torch.searchsorted(true_rows, torch.tensor(bounds)).tolist()
        for (start, end), (first, last) in zip(pairwise(bounds), pairwise(cuts), strict=True):
            yield slice(start, end), slice(first, last)
