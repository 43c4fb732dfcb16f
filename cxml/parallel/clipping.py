"""Clip gradients by their norm without the host learning it."""

from __future__ import annotations

from torch import Tensor

from cxml.internals.torch import norms, scale_all


def clip_gradients(gradients: list[Tensor], largest: float) -> Tensor:
    """Scale gradients in place so that their joint L2 norm is at most `largest`; 0 leaves them as they are.

    Returns:
        The norm before, []; not finite where a gradient is not.
    """
    norm = norms(gradients).square().sum().sqrt()  # in DeepSpeed's order, so that no bit differs
    if largest:
        # `number / tensor` would be the number times a reciprocal, which rounds twice.
        scale_all(gradients, (norm.new_full((), largest) / (norm + 1e-6)).clamp(max=1))
    return norm
