"""Label propensities (Jain, Prabhu and Varma, KDD 2016): the probability that a true label was observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from cxml.errors import ConfigError


class PropensityConstants(NamedTuple):
    """The constants A and B of the propensity model, fitted to a data set."""

    a: float
    b: float


DEFAULT_PROPENSITY = PropensityConstants(0.55, 1.5)
"""The usual constants for data sets without their own."""

_AMAZON = PropensityConstants(0.6, 2.6)
_WIKIPEDIA = PropensityConstants(0.5, 0.4)

KNOWN_PROPENSITIES: Mapping[str, PropensityConstants] = MappingProxyType(
    {
        "wiki10-31k": DEFAULT_PROPENSITY,
        "amazoncat-13k": DEFAULT_PROPENSITY,
        "wiki-500k": _WIKIPEDIA,
        "amazon-670k": _AMAZON,
        "amazon-3m": _AMAZON,
        "lf-amazontitles-131k": _AMAZON,
        "lf-amazontitles-1.3m": _AMAZON,
    }
)
"""The constants used for published results on each data set."""


def inverse_propensities(
    train_frequency: np.ndarray, num_train: int, constants: PropensityConstants = DEFAULT_PROPENSITY
) -> np.ndarray:
    """The weight 1 / p_l of each label: 1 + C (N_l + B)^-A with C = (log N - 1)(B + 1)^A.

    Args:
        train_frequency: int [L], training examples N_l with label l.
        num_train: N, the number of training examples.
        constants: A and B.

    Returns:
        float64 [L], each above 1, larger for rarer labels. With fewer than 3 training examples the model is undefined
        (log N is below 1), and all weights are 1.

    Raises:
        ConfigError: B is 0 and a label never occurs.
        ValueError: there are no training examples, or a frequency is outside 0 to `num_train`.
    """
    if num_train < 1:
        raise ValueError(f"propensities need at least 1 training example, not {num_train}")
    if train_frequency.size and not 0 <= train_frequency.min() <= train_frequency.max() <= num_train:
        raise ValueError(f"label frequencies must be from 0 to {num_train}, the number of training examples")
    a, b = constants
    if b == 0 and train_frequency.size and train_frequency.min() == 0:
        problem = "makes the propensity of labels without training texts undefined"
        raise ConfigError("data.propensity_b", b, problem, "Use a number above 0, such as 1.5.")
    c = max(0.0, math.log(num_train) - 1) * (b + 1) ** a
    return 1 + c * (train_frequency.astype(np.float64) + b) ** -a
