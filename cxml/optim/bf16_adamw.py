"""AdamW on fp32 copies of bf16 weights with bf16 gradients, on the CPU: `cxml.optim.dense_kernels`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from cxml.optim.dense_kernels import Hyperparameters, squares_of, update


def norm_of(gradients: Iterable[Tensor]) -> Tensor:
    """The joint L2 norm of bfloat16 gradients, float32 []."""
    return torch.tensor(math.sqrt(sum(squares_of(_bits(gradient)) for gradient in gradients)), dtype=torch.float32)


def take_step(
    optimizer: torch.optim.Optimizer, gradients: Mapping[Tensor, tuple[Tensor, Tensor]], factor: float
) -> None:
    """Apply the step of torch's AdamW to its fp32 parameters, and round them to the model's weights.

    Args:
        optimizer: torch's AdamW; its state is updated like in its own `step`.
        gradients: by parameter of the optimiser, its bfloat16 weight, and that weight's gradient.
        factor: factor of the gradients.
    """
    for group in optimizer.param_groups:
        beta1, beta2 = group["betas"]
        for copy in group["params"]:
            state = optimizer.state[copy]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copy), torch.zeros_like(copy)
            state["step"] += 1
            step = float(state["step"])
            hyperparameters = Hyperparameters(
                scale=np.float32(factor), new=np.float32(1 - beta1), new_second=np.float32(1 - beta2),
                kept=np.float32(1 - group["lr"] * group["weight_decay"]),
                step_size=np.float32(group["lr"] / (1 - beta1**step)),
                root=np.float32(math.sqrt(1 - beta2**step)), epsilon=np.float32(group["eps"]),
            )  # fmt: skip
            weight, gradient = gradients[copy]
            moment, second = _flat(state["exp_avg"]), _flat(state["exp_avg_sq"])
            update(_bits(weight), _bits(gradient), _flat(copy), moment, second, hyperparameters)


def _bits(tensor: Tensor) -> np.ndarray:
    """The same memory, uint16 [n]."""
    return tensor.detach().contiguous().view(-1).view(torch.int16).numpy().view(np.uint16)


def _flat(tensor: Tensor) -> np.ndarray:
    """The same memory, float32 [n]."""
    return tensor.detach().view(-1).numpy()
