"""Private parts of transformers."""

from __future__ import annotations

import copy
import inspect
import sys

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

SEEN_IN = "5.24.0"
NAMES = (
    "transformers.PretrainedConfig._attn_implementation",
    "transformers.masking_utils.create_bidirectional_mask",
    "transformers.utils.output_capturing.install_all_output_capturing_hooks",
    "transformers.utils.output_capturing:_output_capturing_hooks_installed",
)

_RECORDERS = "transformers.utils.output_capturing"  # the module of the hooks
_HAS_RECORDERS = "_output_capturing_hooks_installed"


def attention_kind(config: PretrainedConfig) -> str | None:
    """The attention implementation of a model with this config, such as `sdpa`; None if unknown."""
    return getattr(config, "_attn_implementation", None)


def takes_wide_mask(model: PreTrainedModel) -> bool:
    """Whether a mask of visible keys for every query, bool [B, 1, T, T], has the same effect as a mask [B, T].

    transformers passes the wide mask to the attention unchanged, so it would replace a causal mask or that of a sliding
    window. Embeddings that read the mask need its other form.
    """
    if attention_kind(model.config) != "sdpa":
        return False
    makers = {name for name in vars(sys.modules[type(model).__module__]) if name.startswith("create_")}
    embeddings = getattr(model, "embeddings", None)
    return (
        "create_bidirectional_mask" in makers
        and not any("sliding" in name or "chunked" in name for name in makers)
        and not any(getattr(module, "is_causal", False) for module in model.modules())
        and (embeddings is None or "attention_mask" not in inspect.signature(embeddings.forward).parameters)
    )


def without_recorders(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares the weights, without the hooks that record hidden states.

    transformers adds them to a model in its first call that returns hidden states, and adds them to the copy again.
    They are local functions, which cannot be pickled.
    """
    tensors = [*model.parameters(), *model.buffers()]
    found = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in found.modules():
        _remove_recorders(module)
    return found


def register_recorders(model: nn.Module) -> None:
    """Let a model from a pickle record hidden states.

    transformers registers what a class records when a model is constructed, which a pickle omits. In a process without
    another model of the class, it would return no hidden states.
    """
    with torch.device("meta"):
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                type(module)(module.config)


def _remove_recorders(module: nn.Module) -> None:
    vars(module).pop(_HAS_RECORDERS, None)
    for number, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__module__", "") == _RECORDERS:
            del module._forward_hooks[number]
