"""Rank rare labels higher: a part of each label's log odds comes off its logit (Menon et al. 2021, post hoc)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cxml.errors import ConfigError
from cxml.metrics import log_odds
from cxml.prediction.decisions import Decisions
from cxml.prediction.parts import Parts, known_frequency


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
