"""How the cascade's scores and those of words become one: learnt on validation texts, never guessed.

Candidates of a text are the best labels of the cascade and those of the words. Four ways to score them are compared on
validation texts, each half by what was learnt on the other: either part alone, the mean of both probabilities, and a
logistic regression over a few facts of each pair of text and label. The last one is taken unless it is worse than the
best of the others by more than chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
from scipy import optimize, sparse, special

from cxml.data import held_out_rows
from cxml.metrics import interval, metric_rows, resampled_metrics

Way = Literal["cascade", "words", "mean", "learnt"]

CANDIDATES = 100
"""Labels that either part proposes for a text, at least."""
FACTS = (
    "cascade", "cascade's probability", "words", "words' probability", "not from the cascade", "not from words",
    "frequency", "cascade x frequency", "words x frequency",
)  # fmt: skip
"""What the regression knows of a pair: logit and log-probability, where a part does not propose the label the least of
those that it does; frequency is log(1 + train texts of the label). Nothing of it depends on which other labels are
better, so that a label keeps its score where others are left out."""

_LOGIT_BOUND = 30.0
_LEAST = 1e-9  # a probability below it counts as this
_PENALTY = 1.0  # of half the squared weights of standardised facts, against the sum of the pairs' losses
_RESAMPLES = 200
_SEED = 0


class Proposals(NamedTuple):
    """Labels that a part proposes for N texts.

    Attributes:
        labels: int64 [N, K], each once per row, -1 for none.
        scores: float [N, K]: probabilities of the cascade, log-probabilities of the words.
    """

    labels: np.ndarray
    scores: np.ndarray


class Pairs(NamedTuple):
    """The candidates of N texts, P pairs of a text and a label, texts in order.

    Attributes:
        rows: int64 [P], text.
        labels: int64 [P].
        facts: float64 [P, facts], see `FACTS`.
        probabilities: float64 [P, 2], those of the cascade and of the words, 0 where a part does not propose the label.
    """

    rows: np.ndarray
    labels: np.ndarray
    facts: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Combination:
    """A way to score candidates.

    Attributes:
        way: which one.
        weights: of the facts, float64 [facts]; used by the way `learnt`.
        bias: beside them.
        num_texts: validation texts that it was chosen on.
        metrics: of each way, on validation texts that it has not learnt from, in percent.
    """

    way: Way
    weights: np.ndarray
    bias: float
    num_texts: int
    metrics: Mapping[str, Mapping[str, float]]

    def score(self, pairs: Pairs) -> np.ndarray:
        """Logits of the pairs' scores, float32 [P]; -inf where the way does not consider the label."""
        return self.score_by(self.way, pairs)

    def score_by(self, way: Way, pairs: Pairs) -> np.ndarray:
        """`score` by another way than the one that was chosen."""
        return _score(pairs, way, self.weights, self.bias)


def pair_up(cascade: Proposals, words: Proposals, frequency: np.ndarray) -> Pairs:
    """The candidates of N texts; `frequency` int64 [L] counts the labels' train texts."""
    num_labels = len(frequency)
    logits = special.logit(np.clip(cascade.scores.astype(np.float64), 0, 1)).clip(-_LOGIT_BOUND, _LOGIT_BOUND)
    keys = [_keys(part.labels, num_labels) for part in (cascade, words)]
    values = [logits[cascade.labels >= 0], words.scores[words.labels >= 0].astype(np.float64)]
    union = np.union1d(*keys)
    rows, labels = np.divmod(union, num_labels)
    found = []
    for own, value in zip(keys, values, strict=True):
        least = np.full(len(cascade.labels), np.inf)
        np.minimum.at(least, own // num_labels, value)
        filled, is_missing = np.where(np.isinf(least), 0, least)[rows], np.ones(len(union), bool)
        places = np.searchsorted(union, own)
        filled[places], is_missing[places] = value, False
        found.append((filled, is_missing))
    (of_cascade, not_cascade), (of_words, not_words) = found
    probabilities = np.stack([special.expit(of_cascade) * ~not_cascade, np.exp(of_words) * ~not_words], 1)
    rarity = np.log1p(frequency[labels])
    columns = [
        of_cascade, special.expit(of_cascade), of_words, np.exp(of_words), not_cascade, not_words, rarity,
        of_cascade * rarity, of_words * rarity,
    ]  # fmt: skip
    return Pairs(rows, labels, np.stack(columns, 1).astype(np.float64), probabilities)


def rank(pairs: Pairs, logits: np.ndarray, num_texts: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each text: label ids int64 [N, k], -1 for none, and logits float32, -inf for none.

    Equal scores are in the order of the label ids.
    """
    order = np.lexsort((pairs.labels, -logits, pairs.rows))
    order = order[logits[order] > -np.inf]
    rows = pairs.rows[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = places < k
    labels, best = np.full((num_texts, k), -1, np.int64), np.full((num_texts, k), -np.inf, np.float32)
    labels[rows[kept], places[kept]] = pairs.labels[order][kept]
    best[rows[kept], places[kept]] = logits[order][kept]
    return labels, best


def choose_combination(
    pairs: Pairs, true: sparse.csr_matrix, inverse_propensity: np.ndarray, ks: Sequence[int]
) -> Combination:
    """Learn the weights on validation texts and choose the way.

    Args:
        pairs: candidates of N validation texts, at least 2.
        true: CSR [N, L].
        inverse_propensity: float64 [L], for the metrics.
        ks: their cut-offs; nDCG at the largest decides.
    """
    num_texts, num_labels = cast(tuple[int, int], true.shape)
    is_true = np.isin(_pair_keys(pairs.rows, pairs.labels, num_labels), _true_keys(true, num_labels))
    rows = _held_out_metrics(pairs, is_true, true, inverse_propensity, ks)
    resampled = {way: resampled_metrics(each, ks, _RESAMPLES) for way, each in rows.items()}
    metrics = {way: {f"{name}@{k}": value for name, k, value in _means(each, ks)} for way, each in rows.items()}
    deciding = f"nDCG@{max(ks)}"
    *parts, learnt = get_args(Way)
    best = max(parts, key=lambda way: metrics[way][deciding])
    lead = interval(resampled[learnt][deciding] - resampled[best][deciding])
    weights, bias = _fit(pairs.facts, is_true)
    return Combination(learnt if lead.high >= 0 else best, weights, bias, num_texts, metrics)


def _held_out_metrics(
    pairs: Pairs, is_true: np.ndarray, true: sparse.csr_matrix, inverse_propensity: np.ndarray, ks: Sequence[int]
) -> dict[Way, dict[str, np.ndarray]]:
    """`metric_rows` of each way; either half of the texts is scored by what the other has taught."""
    num_texts = len(true.indptr) - 1
    in_first = np.isin(pairs.rows, held_out_rows(num_texts, 0.5, _SEED)[0])
    logits = {way: _score(pairs, way, np.zeros(len(FACTS)), 0.0) for way in get_args(Way)}
    for half in (in_first, ~in_first):
        weights, bias = _fit(pairs.facts[~half], is_true[~half])
        logits["learnt"][half] = _score(pairs, "learnt", weights, bias)[half]
    return {
        way: metric_rows(rank(pairs, each, num_texts, max(ks))[0], true, ks, inverse_propensity)
        for way, each in logits.items()
    }


def _means(rows: Mapping[str, np.ndarray], ks: Sequence[int]) -> list[tuple[str, int, float]]:
    """The metrics in percent of `metric_rows`: names, cut-offs, values."""
    found = []
    for name in ("P", "nDCG", "PSP"):
        best = rows.get(f"{name} best", np.ones_like(rows[name])).sum(0)
        shares = 100 * rows[name].sum(0) / np.maximum(best, _LEAST)
        found += [(name, k, float(share)) for k, share in zip(ks, shares, strict=True)]
    return found


def _score(pairs: Pairs, way: Way, weights: np.ndarray, bias: float) -> np.ndarray:
    if way == "learnt":
        return (pairs.facts @ weights + bias).astype(np.float32)
    parts = {"cascade": [0], "words": [1], "mean": [0, 1]}[way]
    probability = pairs.probabilities[:, parts].mean(1)
    with np.errstate(divide="ignore"):
        return special.logit(probability).clip(-np.inf, _LOGIT_BOUND).astype(np.float32)


def _fit(facts: np.ndarray, is_true: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic regression with a penalty on the weights of standardised facts."""
    mean, scale = facts.mean(0), facts.std(0) + _LEAST
    standard = (facts - mean) / scale
    target = is_true.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        logits = standard @ weights + parameters[-1]
        miss = (special.expit(logits) - target) / len(target)
        value = (np.logaddexp(0, logits) - target * logits).mean() + _PENALTY / 2 * (weights @ weights) / len(target)
        return value, np.append(standard.T @ miss + _PENALTY * weights / len(target), miss.sum())

    found = optimize.minimize(loss, np.zeros(facts.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / scale
    return weights, float(found[-1] - weights @ mean)


def _keys(labels: np.ndarray, num_labels: int) -> np.ndarray:
    rows = np.nonzero(labels >= 0)[0]
    return _pair_keys(rows, labels[labels >= 0], num_labels)


def _pair_keys(rows: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    return rows.astype(np.int64) * num_labels + labels


def _true_keys(true: sparse.csr_matrix, num_labels: int) -> np.ndarray:
    rows = np.repeat(np.arange(len(true.indptr) - 1), np.diff(true.indptr))
    return _pair_keys(rows, true.indices.astype(np.int64), num_labels)
