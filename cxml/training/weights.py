"""How much each label counts in propensity-scored metrics."""

from __future__ import annotations

import numpy as np

from cxml.config import Config
from cxml.data import DataManifest, data_url, read_labels
from cxml.metrics import PropensityConstants, inverse_propensities


def label_weights(config: Config) -> np.ndarray:
    """The inverse propensity of each label, float64 [L]."""
    _, frequency = read_labels(data_url(config))
    constants = PropensityConstants(config.data.propensity_a, config.data.propensity_b)
    return inverse_propensities(frequency, DataManifest.read(data_url(config)).rows("train"), constants)
