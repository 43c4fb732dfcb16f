"""From settings and a label tree to a model."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PretrainedConfig

from cxml.config import ModelConfig
from cxml.model.cascade import CascadeXML
from cxml.model.encoder import build_encoder
from cxml.model.label_head import LabelHead
from cxml.tree import LabelTree


def build_model(
    config: ModelConfig,
    tree: LabelTree,
    architecture: PretrainedConfig | None = None,
    make_label_head: Callable[[int], LabelHead] | None = None,
) -> CascadeXML:
    """The model of `config` over `tree`, with pretrained encoder weights, or fresh ones of a given `architecture`.

    The head of the labels is what `make_label_head` makes for features of a given width, or one of ordinary parameters.

    Initial weights of the heads come from torch's global generator: seed it first.
    """
    encoder = build_encoder(config, len(tree.level_sizes), architecture)
    return CascadeXML(
        encoder,
        tree,
        label_head=make_label_head(encoder.hidden_size) if make_label_head else None,
        shortlist_sizes=config.shortlist_sizes,
        level_weights=config.level_weights,
        scoring=config.scoring,
        teacher_forcing=config.teacher_forcing,
    )
