"""The settings of cxml: one frozen dataclass per section, with units, ranges and checks of its fields.

`config_from_dict` builds a config from a mapping, as in a YAML file or a saved manifest. Unknown keys and invalid
values raise `ConfigError` before any expensive work.

The fields of the sections `data`, `tree`, `model`, `head`, `optim` and `train` are part of the fingerprint of their
section's result, and a run resumes only with the same values. `setting` declares the exceptions.

`CHOOSABLE` fields may be left open: `Config.auto` names them, and `cxml.settings` chooses their values from the data.
Until then they have their defaults, so every field always has a value of its type.

1. `fields` declares the effects of a field's value, and has the checks.
2. `data`, `tree`, `model`, `training`, `evaluation` and `operation` hold the sections, `run` the whole `Config`.
3. `plain` converts a config from and to mappings, and selects the fields of a fingerprint.
"""

from cxml.config.data import DataConfig, SourceConfig
from cxml.config.evaluation import EvaluateConfig, EvidenceConfig
from cxml.config.fields import (
    Effect,
    Precision,
    PrecisionChoice,
    PredictionPrecision,
    ThresholdName,
    effects,
    setting,
)
from cxml.config.model import HeadConfig, ModelConfig
from cxml.config.operation import CheckpointConfig, LaunchConfig, LogConfig
from cxml.config.plain import (
    config_from_dict,
    config_to_dict,
    fingerprint_fields,
    plain_values,
    saved_config,
    with_values,
)
from cxml.config.run import AUTO, CHOOSABLE, Config, is_reported, metric_cutoff
from cxml.config.training import OptimConfig, TrainConfig, parse_duration
from cxml.config.tree import TreeConfig

__all__ = [
    "AUTO",
    "CHOOSABLE",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "Effect",
    "EvaluateConfig",
    "EvidenceConfig",
    "HeadConfig",
    "LaunchConfig",
    "LogConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "PrecisionChoice",
    "PredictionPrecision",
    "SourceConfig",
    "ThresholdName",
    "TrainConfig",
    "TreeConfig",
    "config_from_dict",
    "config_to_dict",
    "effects",
    "fingerprint_fields",
    "is_reported",
    "metric_cutoff",
    "parse_duration",
    "plain_values",
    "saved_config",
    "setting",
    "with_values",
]
