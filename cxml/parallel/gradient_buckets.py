"""Sum the gradients of a step in fp32 over all micro-batches and processes, during the backward pass.

backward pass -> the gradients of all weights of a bucket are computed -> copied into it, or added to it, in fp32
              -> on the last micro-batch: all-reduce, while the backward pass continues
step          -> waits for the last reductions, on the accelerator if there is one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cxml.internals.torch import copy_all, scale_all

BUCKET_ELEMENTS = 8 << 20
"""Bucket size. A full bucket is reduced at once: small buckets start early, large ones use a network better."""


@dataclass(eq=False)
class _Bucket:
    """Weights with consecutive gradients.

    Attributes:
        weights: the weights in the likely order of a backward pass.
        sums: their concatenated gradients, fp32 [elements]; None before the first micro-batch of a step.
        missing: number of weights whose gradients the backward pass has not computed yet.
        reduction: the running all-reduce; None before it, and in one process.
    """

    weights: list[Tensor]
    sums: Tensor | None = None
    missing: int = 0
    reduction: Any = None

    def parts(self, sums: Tensor) -> list[Tensor]:
        """Views of a flat tensor with the shapes of the weights."""
        cuts = sums.split([weight.numel() for weight in self.weights])
        return [cut.view_as(weight) for cut, weight in zip(cuts, self.weights, strict=True)]

    def collect(self) -> None:
        """Add the weights' gradients, and remove them from the weights; 0 for weights without one."""
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        elements = sum(weight.numel() for weight in self.weights)
        new = torch.empty(elements, dtype=torch.float32, device=self.weights[0].device)
        copy_all(self.parts(new), gradients)
        self.sums = new if self.sums is None else self.sums.add_(new)
        self.missing = 0
        for weight in self.weights:
            weight.grad = None


class GradientBuckets:
    """The gradients of a model's weights between the backward pass and the optimiser.

    All processes must reduce the same buckets in the same order, so a bucket waits for those before it.
    """

    def __init__(self, weights: Sequence[Tensor], world_size: int) -> None:
        """Register hooks for the backward passes of these weights.

        Args:
            weights: leaves that require gradients, on one device, in the order in which the model applies them.
            world_size: number of processes, all with the same weights.
        """
        self._weights, self._world_size = list(weights), world_size
        self._buckets = _fill_buckets(self._weights)
        self._is_last = False
        self._num_reduced = 0
        for bucket in self._buckets:
            for weight in bucket.weights:
                weight.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._arrived(bucket))

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradients of a scalar loss.

        Args:
            loss: loss of this process's micro-batch.
            is_last: whether it is the last one of its step.
        """
        self._is_last = is_last
        for bucket in self._buckets:
            bucket.missing = len(bucket.weights)
        loss.backward()
        for bucket in self._buckets:
            if bucket.missing:  # a weight may not contribute to a loss
                bucket.collect()
        self._reduce_full_ones()

    def take(self) -> list[Tensor]:
        """The mean over processes of the summed gradients, fp32, in the order and shapes of the weights.

        The next step starts without gradients.
        """
        found: dict[Tensor, Tensor] = {}
        for bucket in self._buckets:
            assert bucket.sums is not None, "a backward pass comes before"
            if bucket.reduction is not None:
                bucket.reduction.wait()
            found |= zip(bucket.weights, bucket.parts(bucket.sums), strict=True)
        if self._world_size > 1:
            scale_all([bucket.sums for bucket in self._buckets if bucket.sums is not None], 1 / self._world_size)
        for bucket in self._buckets:
            bucket.sums = bucket.reduction = None
        self._num_reduced = 0
        return [found[weight] for weight in self._weights]

    def _arrived(self, bucket: _Bucket) -> None:
        bucket.missing -= 1
        if not bucket.missing:
            bucket.collect()
            self._reduce_full_ones()

    def _reduce_full_ones(self) -> None:
        """Start the reductions of all full buckets whose predecessors are started."""
        if not self._is_last or self._world_size == 1:
            return
        for bucket in self._buckets[self._num_reduced :]:
            if bucket.missing:
                return
            bucket.reduction = dist.all_reduce(bucket.sums, async_op=True)
            self._num_reduced += 1


def _fill_buckets(weights: Sequence[Tensor]) -> list[_Bucket]:
    """Weights by bucket, in reverse order, as in a backward pass."""
    buckets: list[_Bucket] = []
    room = 0
    for weight in reversed(weights):
        if weight.numel() > room:
            buckets.append(_Bucket([]))
            room = BUCKET_ELEMENTS
        buckets[-1].weights.append(weight)
        room -= weight.numel()
    return buckets
