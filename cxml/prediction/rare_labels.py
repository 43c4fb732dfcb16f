"""Rank rare labels higher: by logit adjustment, or by probability times a power of the inverse propensity.

Post-hoc logit adjustment subtracts a part of each label's log odds from its logit (Menon et al. 2021).

PSP@k weights a hit by the label's inverse propensity, so ranking by probability times inverse propensity maximises its
expectation (Jain et al. 2016, section 3). A power below 1 is a compromise with the ranking for P@k.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from cxml.errors import ConfigError
from cxml.metrics import PropensityConstants, inverse_propensities, log_odds
from cxml.model.ranking import joint_logit
from cxml.prediction.decisions import Decisions
from cxml.prediction.parts import Parts, known_frequency

CANDIDATES = 100
"""Number of most probable labels per text that are re-ranked; labels below them have almost no weight."""

_USUAL_POWERS = "Use 1 to optimise PSP@k, or less to keep more of P@k"


def adjust_logits(parts: Parts, strength: float) -> Parts:
    """The model with adjusted biases (or logits of all parts together), so rare labels rank higher; unchanged for 0.

    Args:
        parts: a trained model.
        strength: the fraction of the log odds in the train texts to subtract; 1 ranks as if all labels were equally
            frequent.

    Raises:
        ConfigError: the model is exported and has no label frequencies, or the result exceeds the range of float32.
    """
    if not strength:
        return parts
    frequency = known_frequency(parts, "logit_adjustment", strength)
    odds = log_odds(frequency, parts.num_train_texts)
    with np.errstate(over="ignore"):
        shift = -np.float32(strength) * odds
        bias = parts.rows.bias + shift[parts.tree.label_order[parts.layout.positions()]]
    if not np.isfinite(bias).all():
        problem = "makes biases exceed the range of float32"
        raise ConfigError("logit_adjustment", strength, problem, "Give a number such as 0.5.")
    changed = replace(parts, facts={**parts.facts, "logit_adjustment": strength}, decisions=Decisions())
    if parts.evidence is not None:  # the combination was fitted to the cascade's original logits
        return replace(changed, evidence=replace(parts.evidence, shift=parts.evidence.shift + shift))
    return replace(changed, rows=replace(parts.rows, bias=bias))


def weigh_labels(parts: Parts, power: float) -> Parts:
    """The model with label weights for ranking; unchanged if `power` is 0.

    Args:
        parts: a trained model.
        power: power of the inverse propensity; 1 optimises PSP@k, less keeps more of P@k.

    Raises:
        ConfigError: the model is exported and has no label frequencies, or the power is below 0 or so large that the
            weights of frequent labels are 0 in float32.
    """
    if not power:
        return parts
    require_power("propensity_ranking", power)
    frequency = known_frequency(parts, "propensity_ranking", power)
    constants = PropensityConstants(parts.config.data.propensity_a, parts.config.data.propensity_b)
    inverse = inverse_propensities(frequency, parts.num_train_texts, constants)
    weights = ((inverse / inverse.max()) ** power).astype(np.float32)
    if not weights.all():
        raise ConfigError("propensity_ranking", power, "makes the weights of frequent labels 0", f"{_USUAL_POWERS}.")
    facts = {**parts.facts, "propensity_ranking": power}
    return replace(parts, label_weights=weights, facts=facts, decisions=Decisions())


def require_power(option: str, power: float) -> None:
    """Raise `ConfigError` for an invalid power: below 0, or not finite."""
    if not 0 <= power < math.inf:
        raise ConfigError(option, power, "must be a number of at least 0", f"{_USUAL_POWERS}.")


def weigh_logits(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits of scores times their labels' weights, and the resulting order of each row.

    Args:
        labels: int64 [N, K], -1 for none.
        logits: logits of the scores, float32 [N, K], best first; they break ties; -inf for none.
        weights: float32 [L], above 0 and at most 1, by label.

    Returns:
        Float64 [N, K], in the order of the arguments, and positions int64 [N, K], best first.
    """
    weight = torch.from_numpy(weights[np.maximum(labels, 0)]).double()
    own = torch.from_numpy(logits).double()
    weighted = joint_logit(own, torch.logit(weight)).masked_fill(own.isneginf(), -torch.inf).numpy()
    return weighted, np.lexsort((-logits, -weighted))
