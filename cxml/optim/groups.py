"""Parameter groups of AdamW: the encoder learns slowly, the level heads ten times faster (the paper's settings).

A bottleneck learns as fast as the heads: it begins with random directions (docs/decisions/0019).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from cxml.config import OptimConfig
from cxml.model.encoder import is_pretrained


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups for AdamW with `lr` at its peak; frozen parameters and empty groups are left out.

    Weight matrices decay; biases and norm weights, all one-dimensional, do not.
    """
    peaks = {
        "encoder": (config.encoder_lr, config.encoder_weight_decay),
        "classifier": (config.classifier_lr, config.classifier_weight_decay),
    }
    groups = []
    for part, (lr, decay) in peaks.items():
        for decays in (True, False):
            params = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and is_pretrained(name) == (part == "encoder")
                and (parameter.ndim >= 2) == decays
            ]
            if params:
                groups.append({"params": params, "lr": lr, "weight_decay": decay if decays else 0.0})
    return groups
