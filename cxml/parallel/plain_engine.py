"""Data-parallel training in plain PyTorch: every process holds the whole model and trains on its share of the texts."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cxml.internals.torch import copy_all, norms, scale_all
from cxml.optim.bf16_adamw import norm_of, take_step
from cxml.parallel.gradient_buckets import GradientBuckets
from cxml.parallel.step_check import StepCheck


class PlainEngine:
    """An engine without partitioning: accumulation, clipping, bf16, and the mean over processes.

    In bf16 the model computes in bf16, gradients are summed in fp32, and AdamW updates fp32 copies of the weights. On a
    CPU with one process and one micro-batch per step, there is nothing to sum, and compiled loops update the copies.

    Attributes:
        module: the model.
        basic_optimizer: torch's AdamW.
        optimizer: the optimiser of the model's weights; in fp32 the same object.
        trained: the trained weights, by parameter group of AdamW.
        step_check: counts the steps with values that are not finite.
        averages_over: the number of processes; micro-batches are summed.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Any,  # noqa: ANN401 - AdamW, with the attributes of `take_step`
        step_check: StepCheck,
        *,
        accumulation: int,
        clipping: float,
        is_bf16: bool,
        world_size: int = 1,
    ) -> None:
        """Wrap a model and the optimiser of its parameters; a collective call with several processes.

        Args:
            module: the model, on its device.
            optimizer: a fused AdamW of the trained parameters.
            step_check: newly created.
            accumulation: micro-batches per step.
            clipping: the largest gradient norm; 0 disables clipping.
            is_bf16: whether the model computes in bf16.
            world_size: number of processes; all start with the weights of the first.
        """
        self.module = module.bfloat16() if is_bf16 else module
        if world_size > 1:
            for parameter in module.parameters():
                dist.broadcast(parameter.detach(), src=0)
        self.basic_optimizer = optimizer
        self.trained: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        self.optimizer = Fp32Copies(optimizer) if is_bf16 else optimizer
        self._accumulation, self._clipping = accumulation, clipping
        self.step_check, self.averages_over = step_check, world_size
        self._micro_batches = 0
        self._norm: Tensor | None = None
        self._weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # With one backward pass per step, the gradients of autograd are used directly; in bf16 by compiled loops.
        self._is_compiled = is_bf16 and world_size == accumulation == 1 and self._can_be_compiled()
        is_direct = self._is_compiled or (world_size == 1 and not is_bf16)
        self._buckets = None if is_direct else GradientBuckets(self._weights, world_size)

    def __call__(self, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - the model's own
        """The model's outputs."""
        return self.module(*inputs, **options)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss."""
        if self._buckets is None:
            loss.backward()
        else:
            self._buckets.backward(loss, is_last=(self._micro_batches + 1) % self._accumulation == 0)

    def step(self) -> None:
        """End a micro-batch. The last one of a step updates the weights if the gradient is finite, see `take_step`."""
        self._micro_batches += 1
        if self._micro_batches % self._accumulation:
            return
        if self._is_compiled:
            self._compiled_step(cast(Fp32Copies, self.optimizer))
        else:
            self._norm = clip_gradients(self._gradients(), self._clipping)
            self._report_non_finite(self._norm)
            self.optimizer.step()
        self.module.zero_grad()

    def _compiled_step(self, optimizer: Fp32Copies) -> None:
        """The step of bf16 weights on the CPU with the gradients of one backward pass."""
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        norm = self._norm = norm_of(cast(Tensor, weight.grad) for weight in self._weights)
        if not self._report_non_finite(norm):
            optimizer.step_from_bf16(min(1.0, self._clipping / (float(norm) + 1e-6)) if self._clipping else 1.0)

    def _report_non_finite(self, norm: Tensor) -> Tensor:
        """Report a norm that is not finite to the optimiser; returns 0 if the step counts, []."""
        is_unsound = getattr(self.basic_optimizer, "found_inf", None)
        is_unsound = norm.new_zeros(()) if is_unsound is None else is_unsound
        self.basic_optimizer.found_inf = is_unsound.ne_(norm - norm)  # 0 unless the norm is not finite
        return self.basic_optimizer.found_inf

    def _can_be_compiled(self) -> bool:
        return all(weight.device.type == "cpu" and weight.is_contiguous() for weight in self._weights)

    def _gradients(self) -> list[Tensor]:
        """The gradients to apply, fp32."""
        if self._buckets is None:
            return [weight.grad for weight in self._weights if weight.grad is not None]
        gradients = self._buckets.take()
        copies = self.optimizer.copies if isinstance(self.optimizer, Fp32Copies) else {}
        for weight, gradient in zip(self._weights, gradients, strict=True):
            copies.get(weight, weight).grad = gradient
        return gradients

    def was_step_applied(self) -> bool:
        """Whether the optimiser was called in the last step; it checks itself whether the step counts."""
        return True

    def get_global_grad_norm(self) -> Tensor | None:
        """The norm of the last step's gradient before clipping, []; None before the first step."""
        return self._norm

    def zero_optimization_stage(self) -> int:
        """0: nothing is partitioned."""
        return 0

    def train(self) -> None:
        """Set training mode, with dropout."""
        self.module.train()

    def eval(self) -> None:
        """Set evaluation mode, without dropout."""
        self.module.eval()


class Fp32Copies:
    """AdamW on fp32 copies of bf16 weights.

    Attributes:
        copies: the copy of each weight of the model.
        param_groups: the optimiser's groups, which contain the copies.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.copies: dict[Tensor, Tensor] = {}
        for group in optimizer.param_groups:
            copies = {weight: weight.detach().float().requires_grad_() for weight in group["params"]}
            group["params"] = list(copies.values())
            self.copies |= copies
        self.param_groups = optimizer.param_groups

    def step(self) -> None:
        """Update the copies with their gradients, then the model's weights from the copies."""
        self._optimizer.step()
        self.update_weights()
        for copy in self.copies.values():
            copy.grad = None

    def step_from_bf16(self, factor: float) -> None:
        """`step` with the bf16 weights' own gradients, multiplied by a factor."""
        gradients = {copy: (weight, cast(Tensor, weight.grad)) for weight, copy in self.copies.items()}
        take_step(self._optimizer, gradients, factor)

    def update_weights(self) -> None:
        """Set the model's weights from the copies."""
        copy_all([weight.data for weight in self.copies], [copy.data for copy in self.copies.values()])


def clip_gradients(gradients: list[Tensor], largest: float) -> Tensor:
    """Scale gradients in place so that their joint L2 norm is at most `largest`; 0 disables clipping.

    Returns:
        The norm before, []; not finite if a gradient is not finite.
    """
    norm = norms(gradients).square().sum().sqrt()  # in DeepSpeed's order, for bit-identical results
    if largest:
        # `number / tensor` would compute a reciprocal first, which rounds twice.
        scale_all(gradients, (norm.new_full((), largest) / (norm + 1e-6)).clamp(max=1))
    return norm
