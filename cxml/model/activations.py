"""Measure the memory of an encoder's activations in training without data and without an accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from cxml.internals.torch import flash_attention, storage_id
from cxml.model.encoder import TappedEncoder


def activation_bytes(
    encoder: TappedEncoder, num_texts: int, length: int, dtype: torch.dtype, *, recomputes: bool
) -> int | None:
    """Bytes of activations kept between the forward and the backward pass.

    Args:
        encoder: encoder on the meta device; it is converted to `dtype` and training mode.
        num_texts: B.
        length: tokens of each, T.
        dtype: dtype of weights and activations.
        recomputes: activation checkpointing: only the layers' inputs are kept, plus the activations of one layer.

    Returns:
        None if this encoder cannot run without data.
    """
    encoder.to(dtype).train()
    tokens = torch.ones(num_texts, length, dtype=torch.int64, device="meta")
    weights = {storage_id(parameter) for parameter in encoder.parameters()}
    kept: dict[int, Tensor] = {}  # keeps tensors alive, so that addresses are unique

    def keep(tensor: Tensor) -> Tensor:
        kept[storage_id(tensor)] = tensor
        return tensor

    try:
        with _FusedAttention(), saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = encoder(tokens, tokens)
    except Exception:  # it reads values, which meta tensors do not have, and so raises errors of any kind
        return None
    del outputs
    total = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in weights)
    if not recomputes:
        return total
    num_layers = encoder.transformer.config.num_hidden_layers
    return num_layers * num_texts * length * encoder.hidden_size * dtype.itemsize + total // num_layers


class _FusedAttention(TorchFunctionMode):
    """Makes attention keep the same tensors as fused kernels: inputs, output, and a number per query."""

    def __torch_function__(
        self,
        func: object,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is F.scaled_dot_product_attention:
            return flash_attention(*args[:3])
        assert callable(func), "torch hands over functions"
        return func(*args, **(kwargs or {}))
