"""Rank rare labels higher: by logit adjustment, or by probability times a power of the inverse propensity.

Logit adjustment takes a part of each label's log odds off its logit (Menon et al. 2021, post hoc).

PSP@k counts a hit by its label's inverse propensity, so its expectation is largest where labels are ranked by
probability times inverse propensity (Jain et al. 2016, section 3); a power below 1 lies between that and the ranking
for P@k.
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
"""The most probable labels of a text, which are ranked anew; even a rare label below them has next to no weight."""

_USUAL_POWERS = "Give 1 to rank for PSP@k, or less to give up less of P@k"


def adjust_logits(parts: Parts, strength: float) -> Parts:
    """The model with biases, or logits of all parts together, that rank rare labels higher; itself for 0.

    Args:
        parts: a trained model.
        strength: the part of the log odds, among the train texts, that comes off; 1 would rank as if all labels were
            equally frequent.

    Raises:
        ConfigError: an exported model, which does not know how frequent its labels are; or a strength that leaves the
            range of float32.
    """
    if not strength:
        return parts
    frequency = known_frequency(parts, "logit_adjustment", strength)
    odds = log_odds(frequency, parts.num_train_texts)
    with np.errstate(over="ignore"):
        shift = -np.float32(strength) * odds
        bias = parts.rows.bias + shift[parts.tree.label_order[parts.layout.positions()]]
    if not np.isfinite(bias).all():
        problem = "takes biases out of the range of float32"
        raise ConfigError("logit_adjustment", strength, problem, "Give a number such as 0.5.")
    changed = replace(parts, facts={**parts.facts, "logit_adjustment": strength}, decisions=Decisions())
    if parts.evidence is not None:  # the combination was learnt for the cascade's own logits
        return replace(changed, evidence=replace(parts.evidence, shift=parts.evidence.shift + shift))
    return replace(changed, rows=replace(parts.rows, bias=bias))


def weigh_labels(parts: Parts, power: float) -> Parts:
    """The model with label weights by which it ranks; itself where `power` is 0.

    Args:
        parts: a trained model.
        power: of the inverse propensity; 1 ranks for PSP@k, less gives up less of P@k.

    Raises:
        ConfigError: an exported model, which does not know how frequent its labels are; a power below 0, or one so
            large that frequent labels have no weight in float32.
    """
    if not power:
        return parts
    require_power("propensity_ranking", power)
    frequency = known_frequency(parts, "propensity_ranking", power)
    constants = PropensityConstants(parts.config.data.propensity_a, parts.config.data.propensity_b)
    inverse = inverse_propensities(frequency, parts.num_train_texts, constants)
    weights = ((inverse / inverse.max()) ** power).astype(np.float32)
    if not weights.all():
        raise ConfigError("propensity_ranking", power, "leaves frequent labels no weight", f"{_USUAL_POWERS}.")
    facts = {**parts.facts, "propensity_ranking": power}
    return replace(parts, label_weights=weights, facts=facts, decisions=Decisions())


def require_power(option: str, power: float) -> None:
    """Raise `ConfigError` for a power that no labels can be weighed by: one below 0, or no finite number."""
    if not 0 <= power < math.inf:
        raise ConfigError(option, power, "must be a number of at least 0", f"{_USUAL_POWERS}.")


def weigh_logits(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits of scores times their labels' weights, and the order that they put each row's places in.

    Args:
        labels: int64 [N, K], -1 where there is none.
        logits: float32 [N, K], of the scores, best first; they break ties. -inf where there is no label.
        weights: float32 [L], above 0 and at most 1, by label.

    Returns:
        Float64 [N, K], in the order of the arguments, and places int64 [N, K], best first.
    """
    weight = torch.from_numpy(weights[np.maximum(labels, 0)]).double()
    own = torch.from_numpy(logits).double()
    weighted = joint_logit(own, torch.logit(weight)).masked_fill(own.isneginf(), -torch.inf).numpy()
    return weighted, np.lexsort((-logits, -weighted))
