"""Every knob of cxml: one frozen dataclass per part, the unit and range of each field below it, its check beside it.

A config is built from a mapping (`config_from_dict`) that a YAML file or a saved manifest holds. Unknown keys
and impossible values raise `ConfigError` before anything heavy starts.

A field of the sections `data`, `tree`, `model`, `head`, `optim` and `train` counts in the fingerprint of what its
section makes, and a run resumes with the same value only. `setting` declares the exceptions.

`CHOOSABLE` fields may be left open: `Config.auto` names them, and `cxml.settings` chooses their values from the data.
Until then they hold their defaults, so that every field has a value of its type at any time.

1. `fields` says what a field's value changes, and has the checks.
2. `data`, `tree`, `model`, `training`, `evaluation` and `operation` hold the sections, `run` the whole `Config`.
3. `plain` makes a config from mappings and back; `fingerprints` picks the fields that a fingerprint counts.
"""

from cxml.config.data import DataConfig, SourceConfig
from cxml.config.evaluation import EvaluateConfig, EvidenceConfig
from cxml.config.fields import Effect, Precision, PrecisionChoice, ThresholdName, setting
from cxml.config.fingerprints import effects, shaping
from cxml.config.model import HeadConfig, ModelConfig
from cxml.config.operation import CheckpointConfig, LaunchConfig, LogConfig
from cxml.config.plain import config_from_dict, config_to_dict, plain_values, with_values
from cxml.config.run import AUTO, CHOOSABLE, Config, is_reported
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
    "SourceConfig",
    "ThresholdName",
    "TrainConfig",
    "TreeConfig",
    "config_from_dict",
    "config_to_dict",
    "effects",
    "is_reported",
    "parse_duration",
    "plain_values",
    "setting",
    "shaping",
    "with_values",
]
