"""Training in plain PyTorch: every process holds the whole engine, and the processes share the texts."""

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
    """What a training needs where nothing is partitioned: accumulation, clipping, bf16, the mean over processes.

    In bf16 the model computes in bf16; gradients are added up in fp32, and AdamW updates copies of the weights in fp32.
    On a CPU, where a step of one process has one micro-batch and so nothing to add up, compiled loops do that.

    Attributes:
        module: the model.
        basic_optimizer: torch's AdamW.
        optimizer: what updates the model; the same object in fp32.
        trained: the weights that learn, by parameter group of AdamW.
        step_check: counts the steps whose numbers are not finite.
        averages_over: the number of processes; micro-batches are added up.
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
        """Wrap a model and the optimiser of its parameters; with several processes a collective call.

        Args:
            module: on the device where it is to compute.
            optimizer: of its trained parameters, a fused AdamW.
            step_check: fresh.
            accumulation: micro-batches per step.
            clipping: the largest norm of the gradient; 0 never clips.
            is_bf16: whether the model computes in bf16.
            world_size: processes that train this model; all begin with the weights of the first.
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
        # Where nothing else is added to them, gradients are taken as autograd leaves them, by compiled loops in bf16.
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
        """End a micro-batch, and with the last of a step update the weights, if the gradient is finite: `take_step`."""
        self._micro_batches += 1
        if self._micro_batches % self._accumulation:
            return
        if self._is_compiled:
            self._compiled_step(cast(Fp32Copies, self.optimizer))
        else:
            self._norm = clip_gradients(self._gradients(), self._clipping)
            self._note_unsound(self._norm)
            self.optimizer.step()
        self.module.zero_grad()

    def _compiled_step(self, optimizer: Fp32Copies) -> None:
        """The step of bf16 weights on the CPU whose gradients are those of one backward pass."""
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        norm = self._norm = norm_of(cast(Tensor, weight.grad) for weight in self._weights)
        if not self._note_unsound(norm):
            optimizer.step_from_bf16(min(1.0, self._clipping / (float(norm) + 1e-6)) if self._clipping else 1.0)

    def _note_unsound(self, norm: Tensor) -> Tensor:
        """Tell the optimiser of a norm that is not finite; 0 where the step counts, []."""
        is_unsound = getattr(self.basic_optimizer, "found_inf", None)
        is_unsound = norm.new_zeros(()) if is_unsound is None else is_unsound
        self.basic_optimizer.found_inf = is_unsound.ne_(norm - norm)  # 0, but for a norm that is not finite
        return self.basic_optimizer.found_inf

    def _can_be_compiled(self) -> bool:
        return all(weight.device.type == "cpu" and weight.is_contiguous() for weight in self._weights)

    def _gradients(self) -> list[Tensor]:
        """What the optimiser is to apply, fp32."""
        if self._buckets is None:
            return [weight.grad for weight in self._weights if weight.grad is not None]
        gradients = self._buckets.take()
        copies = self.optimizer.copies if isinstance(self.optimizer, Fp32Copies) else {}
        for weight, gradient in zip(self._weights, gradients, strict=True):
            copies.get(weight, weight).grad = gradient
        return gradients

    def was_step_applied(self) -> bool:
        """Whether the last step went as far as the optimiser, which itself looks whether it counts."""
        return True

    def get_global_grad_norm(self) -> Tensor | None:
        """The norm of the last step's gradient before it was clipped, []; None before the first step."""
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
        copies: by weight of the model.
        param_groups: those of the optimiser, of the copies.
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
        """Update the copies by their gradients, then the model's weights by the copies."""
        self._optimizer.step()
        self.update_weights()
        for copy in self.copies.values():
            copy.grad = None

    def step_from_bf16(self, factor: float) -> None:
        """`step` by the weights' own gradients, each times a factor."""
        gradients = {copy: (weight, cast(Tensor, weight.grad)) for weight, copy in self.copies.items()}
        take_step(self._optimizer, gradients, factor)

    def update_weights(self) -> None:
        """Make the model's weights of the copies."""
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
