"""Private parts of transformers."""

from __future__ import annotations

import copy

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

SEEN_IN = "5.24.0"
NAMES = (
    "transformers.PretrainedConfig._attn_implementation",
    "transformers.utils.output_capturing.install_all_output_capturing_hooks",
    "transformers.utils.output_capturing:_output_capturing_hooks_installed",
)

_RECORDERS = "transformers.utils.output_capturing"  # the module of the hooks
_HAS_RECORDERS = "_output_capturing_hooks_installed"


def attention_kind(config: PretrainedConfig) -> str | None:
    """The attention implementation of a model with this config, such as `sdpa`; None if unknown."""
    return getattr(config, "_attn_implementation", None)


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


def _remove_recorders(module: nn.Module) -> None:
    vars(module).pop(_HAS_RECORDERS, None)
    for number, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__module__", "") == _RECORDERS:
            del module._forward_hooks[number]
