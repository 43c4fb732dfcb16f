"""Logistic regression over a few features, with a penalty on the weights of standardised features."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

_PENALTY = 1.0  # factor of half the squared weights of standardised features, relative to the sum of the losses
_LEAST = 1e-9  # lower bound of a standard deviation


def fit_logistic(features: np.ndarray, is_true: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic regression with a penalty on the weights of standardised features."""
    mean, scale = features.mean(0), features.std(0) + _LEAST
    standard = (features - mean) / scale
    target = is_true.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        logits = standard @ weights + parameters[-1]
        miss = (special.expit(logits) - target) / len(target)
        value = (np.logaddexp(0, logits) - target * logits).mean() + _PENALTY / 2 * (weights @ weights) / len(target)
        return value, np.append(standard.T @ miss + _PENALTY * weights / len(target), miss.sum())

    found = optimize.minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / scale
    return weights, float(found[-1] - weights @ mean)
