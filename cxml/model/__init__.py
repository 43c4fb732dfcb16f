"""The model: texts in, a loss or the best labels out.

Batch -> TappedEncoder -> one feature per level -> for each level: LevelHead scores the shortlist; the children of the
best nodes (in training, true nodes first) are the next level's shortlist -> loss / labels
"""

from cxml.data.pretrained import read_encoder_config
from cxml.model.activations import activation_bytes
from cxml.model.build import build_model, check_weights_fit
from cxml.model.cascade import CascadeXML
from cxml.model.encoder import TappedEncoder, build_encoder
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
    "check_weights_fit",
    "host_features",
    "on_host",
    "read_encoder_config",
]
