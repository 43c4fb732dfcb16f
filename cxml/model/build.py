"""Build a model from settings and a label tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import PretrainedConfig

from cxml.config import ModelConfig
from cxml.data.architecture import check_counts
from cxml.errors import CxmlError, DataError
from cxml.model.cascade import CascadeXML
from cxml.model.encoder import build_encoder
from cxml.model.heads import ClusterLevel, LabelHead
from cxml.tree import LabelTree

SelfUpdatingLevels = tuple[Sequence[ClusterLevel], LabelHead]


def build_model(
    config: ModelConfig,
    tree: LabelTree,
    architecture: PretrainedConfig | None = None,
    make_levels: Callable[[Sequence[int]], SelfUpdatingLevels] | None = None,
) -> CascadeXML:
    """The model of `config` over `tree`, with pretrained encoder weights, or new ones of a given `architecture`.

    `make_levels` makes the label head and the sharded cluster levels for features of the given width of each level;
    without it, all levels are ordinary parameters.

    Initial weights of the heads are drawn from torch's global generator, so seed it first.
    """
    encoder = build_encoder(config, len(tree.level_sizes), architecture)
    cluster_levels, label_head = make_levels(encoder.feature_sizes) if make_levels else ((), None)
    return CascadeXML(
        encoder,
        tree,
        label_head=label_head,
        cluster_levels=cluster_levels,
        shortlist_sizes=config.shortlist_sizes,
        level_weights=config.level_weights,
        scoring=config.scoring,
        teacher_forcing=config.teacher_forcing,
    )


def check_weights_fit(
    config: ModelConfig,
    tree: LabelTree,
    architecture: PretrainedConfig,
    *,
    sizes: Mapping[str, int],
    file: str,
    remedy: str,
) -> None:
    """Check that stored weights fit a model, before memory is allocated for it.

    Args:
        config: config of the model.
        tree: tree of the model.
        architecture: architecture of its encoder.
        sizes: elements of each stored parameter of the encoder and the cluster levels, by name.
        file: name of the weights in error messages.
        remedy: remedy in error messages.

    Raises:
        DataError: a parameter is missing, unexpected or has another size, or the architecture is invalid.
    """
    check_counts(architecture, len(sizes), file, remedy)
    try:
        with torch.device("meta"):
            model = build_model(config, tree, architecture)
    except CxmlError:
        raise
    except Exception as error:  # transformers raises many kinds of errors for an invalid architecture
        raise DataError(file, f"no model can be built from its architecture ({str(error)[:300]})", remedy) from error
    expected = {
        name: parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("label_head.")
    }
    differing = sorted(name for name in expected.keys() | sizes.keys() if expected.get(name) != sizes.get(name))
    if differing:
        raise DataError(file, f"the weights do not fit the model and its tree, first {differing[0]}", remedy)
