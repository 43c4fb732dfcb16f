"""From settings and a label tree to a model."""

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
    """The model of `config` over `tree`, with pretrained encoder weights, or fresh ones of a given `architecture`.

    `make_levels` makes the head of the labels and the last levels of clusters, as many as are not to be of ordinary
    parameters, for features of the given width of each level; without it all levels are.

    Initial weights of the heads come from torch's global generator: seed it first.
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
    """Refuse weights that are not those of a model, before any memory is taken for it.

    Args:
        config: of the model.
        tree: of the model.
        architecture: of its encoder.
        sizes: elements of each stored parameter of the encoder and the cluster levels, by name.
        file: how errors name the weights.
        remedy: what to do about weights that do not fit.

    Raises:
        DataError: a parameter is missing, unexpected or of another size, or there is no model of this architecture.
    """
    check_counts(architecture, len(sizes), file, remedy)
    try:
        with torch.device("meta"):
            model = build_model(config, tree, architecture)
    except CxmlError:
        raise
    except Exception as error:  # transformers raises all kinds for an impossible architecture
        raise DataError(file, f"no model can be built from its architecture ({str(error)[:300]})", remedy) from error
    expected = {
        name: parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("label_head.")
    }
    differing = sorted(name for name in expected.keys() | sizes.keys() if expected.get(name) != sizes.get(name))
    if differing:
        raise DataError(file, f"the weights do not fit the model and its tree, first {differing[0]}", remedy)
