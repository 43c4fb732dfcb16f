"""The model: a transformer that scores the levels of a label tree.

Input: a `Batch` of token ids, with true labels in training.

1. `TappedEncoder` computes one feature per level.
2. `LevelHead` or a sharded level scores the shortlist of each level. The children of the best nodes (in training, true
   nodes first) are the shortlist of the next level.

Output: the loss of each level, or the best labels.
"""

from cxml.data.pretrained import read_encoder_config
from cxml.model.activations import activation_bytes
from cxml.model.build import build_model, check_weights_fit
from cxml.model.cascade import CascadeXML
from cxml.model.encoder import TappedEncoder, build_encoder, find_layers, layers_of
from cxml.model.encoder_checks import check_features, check_tokens
from cxml.model.heads import ClusterLevel, EngineHead, LabelHead, Leaves, LevelHead, Rows, SelectionRule
from cxml.model.level_prediction import LevelPrediction, host_features, on_host

__all__ = [
    "CascadeXML",
    "ClusterLevel",
    "EngineHead",
    "LabelHead",
    "Leaves",
    "LevelHead",
    "LevelPrediction",
    "Rows",
    "SelectionRule",
    "TappedEncoder",
    "activation_bytes",
    "build_encoder",
    "build_model",
    "check_features",
    "check_tokens",
    "check_weights_fit",
    "find_layers",
    "host_features",
    "layers_of",
    "on_host",
    "read_encoder_config",
]
