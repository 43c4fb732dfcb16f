"""Private parts of transformers."""

from __future__ import annotations

from transformers import PretrainedConfig

SEEN_IN = "5.24.0"
NAMES = ("transformers.PretrainedConfig._attn_implementation",)


def attention_kind(config: PretrainedConfig) -> str | None:
    """The attention implementation of a model with this config, such as `sdpa`; None if unknown."""
    return getattr(config, "_attn_implementation", None)
