"""Training in one process without DeepSpeed: the same steps with the same numbers, in plain PyTorch."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cxml.accelerators import copy_all
from cxml.parallel.clipping import clip_gradients
from cxml.parallel.step_check import StepCheck


class PlainEngine:
    """The part of DeepSpeed's engine that a training in one process uses: accumulation, clipping, bf16.

    In bf16 the model computes in bf16, and AdamW updates copies of its weights in fp32.

    Attributes:
        module: the model.
        basic_optimizer: torch's AdamW.
        optimizer: what updates the model; the same object in fp32.
        step_check: counts the steps whose numbers are not finite.
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
    ) -> None:
        """Wrap a model and the optimiser of its parameters.

        Args:
            module: on the device where it is to compute.
            optimizer: of its trained parameters, a fused AdamW.
            step_check: fresh.
            accumulation: micro-batches per step.
            clipping: the largest norm of the gradient; 0 never clips.
            is_bf16: whether the model computes in bf16.
        """
        self.module = module.bfloat16() if is_bf16 else module
        self.basic_optimizer = optimizer
        self.optimizer = Fp32Copies(optimizer) if is_bf16 else optimizer
        self._accumulation, self._clipping = accumulation, clipping
        self.step_check = step_check
        self._micro_batches = 0
        self._norm: Tensor | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - the model's own
        """The model's outputs."""
        return self.module(*inputs, **options)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss, divided by the number of micro-batches of a step."""
        (loss / self._accumulation if self._accumulation > 1 else loss).backward()

    def step(self) -> None:
        """End a micro-batch, and with the last of a step update the weights, if the gradient is finite: `take_step`."""
        self._micro_batches += 1
        if self._micro_batches % self._accumulation:
            return
        gradients = self._gradients()
        norm = self._norm = clip_gradients(gradients, self._clipping)
        is_unsound = getattr(self.basic_optimizer, "found_inf", None)
        is_unsound = norm.new_zeros(()) if is_unsound is None else is_unsound
        self.basic_optimizer.found_inf = is_unsound.ne_(norm - norm)  # 0, but for a norm that is not finite
        self.optimizer.step()
        self.module.zero_grad()

    def _gradients(self) -> list[Tensor]:
        """What the optimiser is to apply, fp32."""
        if isinstance(self.optimizer, Fp32Copies):
            return self.optimizer.take_gradients()
        return [p.grad for p in self.module.parameters() if p.grad is not None]

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
        """Let the model train: dropout is on."""
        self.module.train()

    def eval(self) -> None:
        """Let the model predict: dropout is off."""
        self.module.eval()


class Fp32Copies:
    """AdamW on fp32 copies of bf16 weights. Its attributes have the names that DeepSpeed gives them.

    Attributes:
        fp16_groups: the model's own weights by parameter group, bf16.
        fp32_groups: their copies.
        param_groups: those of the optimiser, of the copies.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.fp16_groups: list[list[Tensor]] = [group["params"] for group in optimizer.param_groups]
        self.fp32_groups = [[p.detach().float().requires_grad_() for p in group] for group in self.fp16_groups]
        for group, copies in zip(optimizer.param_groups, self.fp32_groups, strict=True):
            group["params"] = copies
        self.param_groups = optimizer.param_groups

    def take_gradients(self) -> list[Tensor]:
        """Give the copies the gradients of the model's weights, 0 where there is none.

        Returns:
            The gradients of the copies, fp32: what `step` applies.
        """
        pairs = self._pairs()
        gradients = [torch.empty_like(copy) for _, copy in pairs]
        copy_all(gradients, [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight, _ in pairs])
        for (_, copy), gradient in zip(pairs, gradients, strict=True):
            copy.grad = gradient
        return gradients

    def step(self) -> None:
        """Update the copies by their gradients, then the model's weights by the copies."""
        self._optimizer.step()
        weights, copies = zip(*self._pairs(), strict=True)
        copy_all([weight.data for weight in weights], [copy.data for copy in copies])
        for copy in copies:
            copy.grad = None

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each weight of the model with its copy."""
        return list(zip(chain(*self.fp16_groups), chain(*self.fp32_groups), strict=True))
