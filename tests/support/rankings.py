"""Brute-force rankings in float64: the oracle for every head."""

import itertools

import mpmath
import numpy as np

TOLERANCE = 2e-6  # relative, for float32 logits and their sums


def joint(own, parent):
    """The log odds of the product of two probabilities, float64: `exact_joint` with the largest term factored out."""
    low, high = np.minimum(own, parent).astype(np.float64), np.maximum(own, parent).astype(np.float64)
    rest = np.exp(-np.abs(high)) + np.exp(low - np.maximum(high, 0))
    return low + np.minimum(high, 0) - np.log1p(rest)


def exact_joint(own, parent, digits):
    """The same from its definition, computed with `digits` digits."""
    with mpmath.workdps(digits):
        product = 1 / ((1 + mpmath.exp(-own)) * (1 + mpmath.exp(-parent)))
        return float(mpmath.log(product / (1 - product)))


def check_ranking(found, found_logits, scores, own, k, tolerance=TOLERANCE, own_tolerance=0.0):
    """Check the ranking that a head found for one text against all candidates.

    Args:
        found: places in `scores`, best first, -1 for none; found_logits: their scores as logits.
        scores: float64 [n], the log odds of every candidate's score.
        own: float64 [n], its own logit, which breaks ties.
        k: number of requested labels.
        tolerance: relative tolerance of scores; own_tolerance: absolute tolerance of own logits from float32 products.
    """
    found, found_logits = np.asarray(found), np.asarray(found_logits, np.float64)
    assert found.shape == found_logits.shape == (k,)
    number = min(k, len(scores))
    assert (found[:number] >= 0).all()
    assert (found[number:] == -1).all()
    assert np.isneginf(found_logits[number:]).all()
    kept = found[:number]
    assert len(set(kept.tolist())) == number
    best = np.lexsort((-own, -scores))
    slack = tolerance * np.maximum(1, np.abs(scores))
    np.testing.assert_allclose(found_logits[:number], scores[kept], rtol=tolerance, atol=tolerance)
    # Each place has the best remaining score. Exact ties of the oracle are ordered by their own logits.
    np.testing.assert_array_less(scores[best[:number]], scores[kept] + 2 * slack[kept] + 1e-300)
    for here, after in itertools.pairwise(kept):
        assert scores[here] >= scores[after] - 2 * slack[here]
        if scores[here] == scores[after]:
            assert own[here] >= own[after] - own_tolerance
    if number and len(scores) > number:  # of ties at the end, the highest own logits are kept
        last, out = kept[-1], np.setdiff1d(np.arange(len(scores)), kept)
        tied = out[scores[out] == scores[last]]
        assert (own[tied] <= own[last] + own_tolerance).all()
