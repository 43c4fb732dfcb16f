"""Attention for training on CPUs.

PyTorch's fused attention for CPUs has no dropout, and its backward pass in bf16 multiplies the matrices of each text
and head separately. Its other implementation writes many matrices of all attention weights to memory. Here, batched
products compute a few texts, or a few heads of a long text, at a time. Their weights stay in the processor's cache. The
backward pass computes the weights again, so only the inputs are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cxml.internals.torch import softmax_backward
from cxml.model.cpu_dropout import Dropout, Key, random_keys, zero_some

_CACHED_BYTES = 1 << 20  # attention weights that a thread computes at a time
_SHORT = 32  # tokens; batched products of smaller matrices take longer in bf16 than in float32


class CpuTraining(TorchFunctionMode):
    """Within this context, `dropout` and `scaled_dot_product_attention` use this package's operations for CPUs."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        return _FASTER.get(func, func)(*args, **(kwargs or {}))


def _dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if inplace or not training or not 0 < p < 1:
        return F.dropout(values, p, training, inplace)
    return Dropout.apply(values, p)


def _attention(  # noqa: PLR0917 - PyTorch's form
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: bool,
) -> Tensor:
    is_usual = query.dim() == 4 and query.shape == key.shape == value.shape and not is_causal and dropout_p < 1
    learns_mask = attn_mask is not None and attn_mask.requires_grad
    is_fused_faster = query.dtype == torch.float32 and not dropout_p
    if is_usual and not learns_mask and not is_fused_faster:
        return BatchedAttention.apply(query, key, value, attn_mask, dropout_p, scale)
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)


_FASTER: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.dropout: _dropout, F.scaled_dot_product_attention: _attention
}  # fmt: skip


class BatchedAttention(torch.autograd.Function):
    """`torch.nn.functional.scaled_dot_product_attention` in training.

    `BatchedAttention.apply(query, key, value, mask, rate, scale)` takes query, key and value [B, H, T, D], a mask that
    broadcasts to [B, H, T, T] (True for visible keys, or numbers to add; None: all are visible), the dropout rate of
    the weights, below 1, and the scale of the products (None: 1 / sqrt(D)).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # noqa: ANN401, D102 - PyTorch's form
        query, key, value, mask, rate, scale = inputs
        ctx.parts = _parts(query, mask, rate, scale)
        ctx.save_for_backward(query, key, value)
        out = torch.empty_like(query)
        for part in ctx.parts:
            weights = part.dropped(part.weights(query, key))
            part.write(out, torch.bmm(weights, part.of(value) / (1 - rate)))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102 - PyTorch's form
        query, key, value = inputs = ctx.saved_tensors
        found = tuple(torch.empty_like(each) for each in inputs)
        for part in ctx.parts:
            weights, slope = part.weights(query, key), part.of(gradients[0]) / (1 - part.rate)
            of_weights = part.dropped(torch.bmm(slope, part.of(value).transpose(1, 2)))
            of_products = softmax_backward(of_weights, weights) * part.scale
            of_inputs = (
                torch.bmm(of_products, part.of(key)),
                torch.bmm(of_products.transpose(1, 2), part.of(query)),
                torch.bmm(part.dropped(weights).transpose(1, 2), slope),
            )
            for whole, each in zip(found, of_inputs, strict=True):
                part.write(whole, each)
        return (*found, None, None, None)


@dataclass(frozen=True)
class _Part:
    """Texts and heads whose attention is computed together: n texts with all heads, or n heads of a long text.

    Attributes:
        place: of the texts and of the heads, in [B, H, T, D].
        mask: numbers to add to the products, broadcast to [texts, heads, T, T]; None: none.
        rate: dropout rate of the weights.
        key: of the dropout.
        scale: factor of the products.
        dtype: number format of all products but those of queries and keys. The softmax of these needs `wide`.
        wide: float32, or float64 for inputs in float64.
    """

    place: tuple[slice, slice]
    mask: Tensor | None
    rate: float
    key: Key
    scale: float
    dtype: torch.dtype
    wide: torch.dtype

    def of(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Their rows of [B, H, T, D], as [n, T, D], by default in `self.dtype`."""
        return tensor[self.place].to(dtype or self.dtype).flatten(0, 1)

    def write(self, whole: Tensor, values: Tensor) -> None:
        """Set their rows of [B, H, T, D] to values [n, T, D]."""
        found = whole[self.place]
        found.copy_(values.view_as(found))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention weights before dropout, [n, T, T]."""
        products = torch.bmm(self.of(query, self.wide) * self.scale, self.of(key, self.wide).transpose(1, 2))
        if self.mask is not None:
            products.view(*query[self.place].shape[:2], *products.shape[1:]).add_(self.mask)
        return torch.softmax(products, -1).to(self.dtype)

    def dropped(self, weights: Tensor) -> Tensor:
        """Set the dropped weights to zero, in place."""
        return zero_some(weights, self.rate, self.key) if self.rate else weights


def _parts(query: Tensor, mask: Tensor | None, rate: float, scale: float | None) -> list[_Part]:
    texts, heads, length, width = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    dtype = wide if length < _SHORT else query.dtype
    pairs = _CACHED_BYTES * torch.get_num_threads() // (length**2 * dtype.itemsize)  # of a text and a head
    places = list(product(_slices(texts, pairs // heads), _slices(heads, pairs)))
    added = None if mask is None else _added(mask, wide).expand(texts, heads, -1, -1)
    keys = random_keys(len(places)) if rate else [(0, 0)] * len(places)
    scale = 1 / math.sqrt(width) if scale is None else scale
    return [
        _Part(place, None if added is None else added[place], rate, key, scale, dtype, wide)
        for place, key in zip(places, keys, strict=True)
    ]


def _slices(count: int, size: int) -> list[slice]:
    """Cut a range of `count` places into slices of `size`, at least 1."""
    step = max(1, size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as finite numbers to add to products, so that rows without a visible key have no NaN."""
    least = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, least)
    return mask.to(dtype).clamp(min=least)
