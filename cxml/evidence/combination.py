"""Combine the scores of the cascade and of the sources, with weights learnt on validation texts.

The candidates of a text are the best labels of the cascade and of each source. Several ways to score them are compared
on validation texts by cross-validation: each part alone, the mean of all probabilities, and a logistic regression over
a few features of each pair of text and label. The regression is chosen unless it is significantly worse than the best
of the others. Of labels that are nearly equally probable, the rarer one ranks higher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
from scipy import sparse, special

from cxml.data import epoch_order
from cxml.evidence.logistic import fit_logistic
from cxml.evidence.source import Proposals, best_of_rows
from cxml.metrics import interval, metric_rows, resampled_metrics

CANDIDATES = 100
"""Least number of labels that the cascade and each source propose for a text."""
CASCADE, MEAN, LEARNT = "cascade", "mean", "learnt"
NAMES = "names"
"""The source that can score labels without a train text."""

_LOGIT_BOUND = 30.0
_LEAST = 1e-9  # lower bound of probabilities
_ENOUGH = 50  # true pairs of labels without a train text, needed to learn their weights from them
_ENOUGH_OF_RARE = 200  # true pairs of the rarest other labels, needed otherwise
_RESAMPLES = 200
_SEED = 0
_FOLDS, _FEW_TEXTS = 5, 2000  # parts for the cross-validation of few texts; of more texts, halves are large enough
_RARITY_POWERS = (1e-3, 3e-4, 1e-4)  # from the largest; 1e-3 lowers the probability of frequent labels by about 1 %
_COST = 0.1  # points of P@k and nDCG@k on validation texts that a power may cost


def scoring_methods(sources: Sequence[str]) -> tuple[str, ...]:
    """The ways to score candidates: each part alone, the mean of all, and the regression."""
    return (CASCADE, *sources, MEAN, LEARNT)


def feature_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the regression's features of a pair.

    They are the logit of the cascade and the log-probability of each source (a part that does not propose the label
    contributes its floor, or its smallest score for the text), their probabilities, and the frequency, which is log(1 +
    train texts of the label). No feature depends on the rank among other labels, so a label keeps its score if other
    labels are removed.
    """
    parts = (CASCADE, *sources)
    scores = [feature for part in parts for feature in (part, f"{part}'s probability")]
    return (*scores, *(f"not from {part}" for part in parts), "frequency", *(f"{part} x frequency" for part in parts))


class Pairs(NamedTuple):
    """The candidates of N texts, P pairs of a text and a label, texts in order.

    Attributes:
        rows: int64 [P], text.
        labels: int64 [P].
        features: float64 [P, features], see `feature_names`.
        probabilities: float64 [P, parts], of the cascade and each source; 0 if a part does not propose the label.
    """

    rows: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Combination:
    """A way to score candidates.

    Attributes:
        sources: names of the parts beside the cascade.
        way: one of `scoring_methods(sources)`.
        weights: of the features, float64 [features]; used by the way `learnt`.
        bias: bias of the regression.
        unseen: weights and bias for labels without a train text, see `_fit_unseen`; None if no source can score such
            labels.
        rarity: power of a label's 1 + train texts by which probabilities are divided; 0: none.
        num_texts: validation texts used for the choice.
        metrics: of each way on validation texts that it was not fitted on, in percent.
    """

    sources: tuple[str, ...]
    way: str
    weights: np.ndarray
    bias: float
    num_texts: int
    metrics: Mapping[str, Mapping[str, float]]
    unseen: tuple[np.ndarray, float] | None = None
    rarity: float = 0.0

    def score(self, pairs: Pairs) -> np.ndarray:
        """Logits of the pairs' scores, float32 [P]; -inf if the way does not use the label."""
        logits = self.score_by(self.way, pairs)
        return favour_rare(logits, _log_texts(pairs.features, self.sources), self.rarity) if self.rarity else logits

    def score_by(self, way: str, pairs: Pairs) -> np.ndarray:
        """Like `score`, with the given way instead of the chosen one, and without `rarity`."""
        if way == LEARNT:
            return self._learnt(pairs.features).astype(np.float32)
        places = slice(None) if way == MEAN else slice((place := (CASCADE, *self.sources).index(way)), place + 1)
        probability = pairs.probabilities[:, places].mean(1)
        with np.errstate(divide="ignore"):
            return special.logit(probability).clip(-np.inf, _LOGIT_BOUND).astype(np.float32)

    def _learnt(self, features: np.ndarray) -> np.ndarray:
        logits = features @ self.weights + self.bias
        if self.unseen is None:
            return logits
        weights, bias = self.unseen
        return np.where(_log_texts(features, self.sources) > 0, logits, features @ weights + bias)


def favour_rare(logits: np.ndarray, log_texts: np.ndarray, power: float) -> np.ndarray:
    """Divide probabilities by a power of the labels' train texts, so that the rarer of nearly equal labels is first.

    If the probabilities are right, a power costs little P@k: it exchanges only labels whose probabilities differ by a
    factor of less than the ratio of their train texts to this power.

    Args:
        logits: float32 [P], of the probabilities.
        log_texts: float64 [P], log(1 + train texts).
        power: 0 changes nothing.

    Returns:
        Logits, float32 [P].
    """
    log_probability = -np.logaddexp(0, -logits.astype(np.float64)) - power * log_texts
    with np.errstate(divide="ignore"):
        lowered = log_probability - np.log(-np.expm1(log_probability))
    return np.where(power * log_texts > 0, lowered, logits).astype(np.float32)


def cascade_alone(sources: tuple[str, ...]) -> Combination:
    """The combination that uses only the cascade, for use before the choice."""
    return Combination(sources, CASCADE, np.zeros(len(feature_names(sources))), 0.0, 0, {})


def candidate_pairs(cascade: Proposals, sources: Sequence[Proposals], frequency: np.ndarray) -> Pairs:
    """The candidates of N texts; `frequency` int64 [L] counts the labels' train texts."""
    num_labels, parts = len(frequency), (cascade, *sources)
    logits = special.logit(np.clip(cascade.scores.astype(np.float64), 0, 1)).clip(-_LOGIT_BOUND, _LOGIT_BOUND)
    keys = [_keys(part.labels, num_labels) for part in parts]
    values = [logits[cascade.labels >= 0], *(part.scores[part.labels >= 0].astype(np.float64) for part in sources)]
    union = np.unique(np.concatenate(keys))
    rows, labels = np.divmod(union, num_labels)
    scores, probabilities, missing = [], [], []
    for number, (part, own, value) in enumerate(zip(parts, keys, values, strict=True)):
        least = np.full(len(cascade.labels), np.inf)
        np.minimum.at(least, own // num_labels, value)
        least = np.where(np.isinf(least), 0, least) if part.floor is None else np.full_like(least, part.floor)
        filled, is_missing = least[rows], np.ones(len(union), bool)
        places = np.searchsorted(union, own)
        filled[places], is_missing[places] = value, False
        scores.append(filled)
        probabilities.append(np.exp(filled) if number else special.expit(filled))
        missing.append(is_missing)
    rarity = np.log1p(frequency[labels])
    of_parts = [feature for both in zip(scores, probabilities, strict=True) for feature in both]
    columns = [*of_parts, *missing, rarity, *(score * rarity for score in scores)]
    proposed = [each * ~is_missing for each, is_missing in zip(probabilities, missing, strict=True)]
    return Pairs(rows, labels, np.stack(columns, 1).astype(np.float64), np.stack(proposed, 1))


def rank(pairs: Pairs, logits: np.ndarray, num_texts: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each text: see `best_of_rows`."""
    return best_of_rows(pairs.rows, pairs.labels, logits, num_texts, k)


def choose_combination(
    pairs: Pairs,
    true: sparse.csr_matrix,
    inverse_propensity: np.ndarray,
    ks: Sequence[int],
    *,
    sources: tuple[str, ...],
) -> Combination:
    """Fit the weights on validation texts and choose the way; the cascade alone if no candidate is true.

    Args:
        pairs: candidates of N validation texts.
        true: CSR [N, L].
        inverse_propensity: float64 [L], for the metrics.
        ks: cut-offs of the metrics; the choice uses nDCG at the largest.
        sources: names of the parts beside the cascade, in the order of `candidate_pairs`.
    """
    is_true, num_texts = _are_true(pairs, true), len(true.indptr) - 1
    logits = _held_out_logits(pairs, is_true, num_texts, sources)

    def rows_of(ranked_by: np.ndarray) -> dict[str, np.ndarray]:
        return metric_rows(rank(pairs, ranked_by, num_texts, max(ks))[0], true, ks, inverse_propensity)

    rows = {way: rows_of(each) for way, each in logits.items()}
    resampled = {way: resampled_metrics(each, ks, _RESAMPLES) for way, each in rows.items()}
    metrics = {way: _means(each, ks) for way, each in rows.items()}
    if not is_true.any():
        return replace(cascade_alone(sources), num_texts=num_texts, metrics=metrics)
    deciding = f"nDCG@{max(ks)}"
    *others, learnt = scoring_methods(sources)
    best = max(others, key=lambda way: metrics[way][deciding])
    lead = interval(resampled[learnt][deciding] - resampled[best][deciding])
    weights, bias, unseen = _fit(pairs.features, is_true, sources)
    way = learnt if lead.high >= 0 else best
    chosen = Combination(sources, way, weights, bias, num_texts, metrics, unseen)
    log_texts = _log_texts(pairs.features, sources)
    for power in _RARITY_POWERS if way != CASCADE else ():
        found = _means(rows_of(favour_rare(logits[way], log_texts, power)), ks)
        if _is_worthwhile(found, metrics[way]):
            return replace(chosen, metrics={**metrics, way: found}, rarity=power)
    return chosen


def _is_worthwhile(found: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether a power improves PSP@k at some k and lowers it at none, and costs little of the other metrics."""
    gains = {name: found[name] - before[name] for name in before}
    of_rare = [gain for name, gain in gains.items() if name.startswith("PSP")]
    is_cheap = all(gain >= -_COST for gain in gains.values())
    return is_cheap and min(of_rare) >= 0 and max(of_rare) > 0


def _fit(
    features: np.ndarray, is_true: np.ndarray, sources: tuple[str, ...]
) -> tuple[np.ndarray, float, tuple[np.ndarray, float] | None]:
    """Weights and bias for labels with train texts, and for those without."""
    weights, bias = fit_logistic(features, is_true)
    return weights, bias, _fit_unseen(features, is_true, sources) if NAMES in sources else None


def _fit_unseen(features: np.ndarray, is_true: np.ndarray, sources: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """Weights and bias for labels without a train text.

    They are fitted on such labels if validation texts have enough of them. Otherwise they are fitted on the rarest of
    the other labels, as few as are needed, with the two features about names only: scores of the cascade, words or
    neighbours for a label in training do not transfer to labels without a train text.
    """
    names = feature_names(sources)
    frequency = _log_texts(features, sources)
    columns, rows = np.arange(len(names)), frequency == 0
    if np.count_nonzero(is_true[rows]) < _ENOUGH:
        columns = np.array([names.index(NAMES), names.index(f"{NAMES}'s probability")])
        others = (features[:, names.index(f"not from {NAMES}")] == 0) & (frequency > 0)
        of_true = np.sort(frequency[others & is_true])
        most = of_true[min(_ENOUGH_OF_RARE, len(of_true)) - 1] if len(of_true) else np.inf
        rows = others & (frequency <= most)
    weights, bias = np.zeros(len(names)), -_LOGIT_BOUND
    if rows.any():
        weights[columns], bias = fit_logistic(features[rows][:, columns], is_true[rows])
    return weights, bias


def _held_out_logits(
    pairs: Pairs, is_true: np.ndarray, num_texts: int, sources: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Logits of each way; each part of the texts is scored by weights fitted on the other parts."""
    part_of_text = np.zeros(num_texts, np.int64)
    part_of_text[epoch_order(num_texts, _SEED, 0)] = np.arange(num_texts) % (_FOLDS if num_texts < _FEW_TEXTS else 2)
    parts = part_of_text[pairs.rows]
    unlearnt = cascade_alone(sources)
    logits = {way: unlearnt.score_by(way, pairs) for way in scoring_methods(sources)}
    for part in np.unique(parts):
        own, others = parts == part, parts != part
        if not is_true[others].any():  # no true pair to fit on
            logits[LEARNT][own] = logits[CASCADE][own]
            continue
        weights, bias, unseen = _fit(pairs.features[others], is_true[others], sources)
        learnt = replace(unlearnt, weights=weights, bias=bias, unseen=unseen)
        logits[LEARNT][own] = learnt.score_by(LEARNT, pairs)[own]
    return logits


def _means(rows: Mapping[str, np.ndarray], ks: Sequence[int]) -> dict[str, float]:
    """The metrics of `metric_rows` in percent, such as `P@1`."""
    found = {}
    for name in ("P", "nDCG", "PSP"):
        best = rows.get(f"{name} best", np.ones_like(rows[name])).sum(0)
        shares = 100 * rows[name].sum(0) / np.maximum(best, _LEAST)
        found |= {f"{name}@{k}": float(share) for k, share in zip(ks, shares, strict=True)}
    return found


def _log_texts(features: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """The feature "frequency" of each pair, float64 [P]: log(1 + train texts of the label)."""
    return features[:, feature_names(sources).index("frequency")]


def _keys(labels: np.ndarray, num_labels: int) -> np.ndarray:
    rows = np.nonzero(labels >= 0)[0]
    return _pair_keys(rows, labels[labels >= 0], num_labels)


def _pair_keys(rows: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    return rows.astype(np.int64) * num_labels + labels


def _are_true(pairs: Pairs, true: sparse.csr_matrix) -> np.ndarray:
    """Whether each pair's label is true for its text, bool [P]."""
    num_texts, num_labels = cast(tuple[int, int], true.shape)
    rows = np.repeat(np.arange(num_texts), np.diff(true.indptr))
    own = _pair_keys(rows, true.indices.astype(np.int64), num_labels)
    return np.isin(_pair_keys(pairs.rows, pairs.labels, num_labels), own)
