"""From settings and a label tree to a model."""

from __future__ import annotations

from transformers import PretrainedConfig

from cxml.config import ModelConfig
from cxml.model.cascade import CascadeXML
from cxml.model.encoder import build_encoder
from cxml.tree import LabelTree


def build_model(config: ModelConfig, tree: LabelTree, architecture: PretrainedConfig | None = None) -> CascadeXML:
    """The model of `config` over `tree`, with pretrained encoder weights, or fresh ones of a given `architecture`.

    Initial weights of the heads come from torch's global generator: seed it first.
    """
    return CascadeXML(
        build_encoder(config, len(tree.level_sizes), architecture),
        tree,
        shortlist_sizes=config.shortlist_sizes,
        level_weights=config.level_weights,
        scoring=config.scoring,
    )
