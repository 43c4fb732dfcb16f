"""Numbers that are infinite or not a number: a checkpoint or model that holds one is neither saved nor loaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cxml.errors import DivergenceError
from cxml.optim.row_formats import has_finite_fp8


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite; uint16 holds the bits of bfloat16, other integers are."""
    if tensor.dtype == torch.float8_e4m3fn:  # torch compares none of these
        return has_finite_fp8(tensor.view(torch.uint8).numpy())
    values = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
    # The extremes are NaN if any value is; unlike isfinite they need no memory.
    return not (
        values.is_floating_point() and values.numel() and not torch.stack(torch.aminmax(values)).isfinite().all()
    )


def require_finite(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check tensors by name before they are saved.

    Raises:
        DivergenceError: names the first one that holds a number that is not finite.
    """
    for name, tensor in named:
        if not is_finite(tensor):
            raise DivergenceError(
                f"{name} holds numbers that are not finite, so it is not saved. The last update was too large: lower "
                "optim.encoder_lr, optim.classifier_lr and, if set, head.learning_rate, and train again."
            )
