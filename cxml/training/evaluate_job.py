"""The evaluation job: every process predicts its share of the test split, and the first rank gets the report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from cxml import storage
from cxml.checkpoint import has_model, model_url
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import (
    LabelledRows,
    ShardedDataset,
    cut,
    data_url,
    read_label_table,
    validation_texts,
    window_rule,
)
from cxml.errors import DataError
from cxml.evidence import CANDIDATES, Evidence
from cxml.metrics import by_frequency
from cxml.parallel import Exchange, Ranks, distributed
from cxml.prediction import (
    Decisions,
    Predictions,
    Predictor,
    RowFormat,
    choose_decisions,
    model_identity,
    read_run_decisions,
    write_run_decisions,
    write_scores,
)
from cxml.training.decision_report import Ranked, decision_report, num_candidates
from cxml.training.epoch_selection import validated_run
from cxml.training.evaluation import (
    Predict,
    SplitPrediction,
    gather_labels,
    predict_by_model,
    predict_share,
    propensity_weights,
    score_levels,
)
from cxml.training.evidence import run_evidence, with_evidence
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

PredictTexts = Callable[[LabelledRows], tuple[SplitPrediction, SplitPrediction]]
"""Predicts this rank's share of texts, by the cascade alone and by the model with its evidence."""


def evaluate_run(config: Config) -> dict[str, Any]:
    """Evaluate the saved model of `config` on the test split. Runs in every process of the job.

    The first rank writes the scores of the best labels to `predictions.npz` in the run's output.

    With validation texts, it also chooses thresholds on them and writes `decisions.json`. It uses the model itself, or
    the model that selected the number of epochs if the final fit was trained on the validation texts.

    Returns:
        `level_sizes`; `levels`: metrics per level in percent, the labels last; for a model with evidence `evidence`:
        its combination and metrics of the cascade alone. On the first rank also `examples`: texts with their true and
        best labels; `by_frequency`: metrics of label groups, rare to frequent; and the items of `decision_report`.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_main=ranks.is_first)
        dataset = ShardedDataset(data_url(config), "test")
        dataset.start_verification()  # while the model loads
        tree = LabelTree.load(tree_url(config))
        evidence = run_evidence(config, tree)
        predict_texts = _predict_texts_by(config, tree, evidence, ranks)
        of_cascade, prediction = predict_texts(dataset)
        of_levels = {"config": config.evaluate, "ranks": ranks}
        weights = propensity_weights(config)
        report = {
            "level_sizes": list(tree.level_sizes),
            "levels": score_levels(prediction, dataset, tree, weights, **of_levels),
        }
        if evidence is not None:
            alone = score_levels(of_cascade, dataset, tree, weights, **of_levels)[-1]
            report["evidence"] = _evidence_report(evidence, alone)
        best = gather_labels(prediction.rows, prediction.nodes[-1], prediction.scores[-1], len(dataset), ranks)
        decisions = _decide(config, tree, predict_texts, ranks)
        report["examples"] = _examples(config, best)
        if best is not None:
            k = max(config.evaluate.top_k)
            write_scores(predictions_url(config), best[0][:, :k], best[1][:, :k], dataset.manifest.num_labels)
            true = dataset.labels_csr()
            frequency = read_label_table(data_url(config)).frequency
            report["by_frequency"] = frequency_groups(best[0], true, frequency, weights, k)
            report |= decision_report(Ranked(*best, true), decisions, frequency, weights, config.evaluate.top_k)
        return report


def decide_run(config: Config) -> None:
    """Choose thresholds and calibration of the saved model of `config`, without an evaluation on the test split.

    Runs in every process of the job. The model that selected the number of epochs must exist, if the run has one.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_main=ranks.is_first)
        _decide_by(validated_run(config), config, LabelTree.load(tree_url(config)), ranks)


def _decide(config: Config, tree: LabelTree, predict_texts: PredictTexts, ranks: Ranks) -> Decisions:
    """Thresholds and calibration of the run's model, chosen with a model that was not trained on the validation texts.

    If that model was deleted after the final fit, the stored thresholds and calibration do not change.
    """
    validated = validated_run(config)
    if validated is config:
        return _choose_decisions(config, predict_texts, ranks)
    if has_model(model_url(validated)):
        return _decide_by(validated, config, tree, ranks)
    if ranks.is_first:
        _log.warning("%s is gone: thresholds and calibration stay as they were chosen there", validated.output)
    return read_run_decisions(config.output, model_identity(model_url(config)), tree.num_labels)


def _decide_by(validated: Config, config: Config, tree: LabelTree, ranks: Ranks) -> Decisions:
    """`_choose_decisions` for the run `config`, by the saved model of the run `validated`."""
    return _choose_decisions(config, _predict_texts_by(validated, tree, run_evidence(validated, tree), ranks), ranks)


def _predict_texts_by(config: Config, tree: LabelTree, evidence: Evidence | None, ranks: Ranks) -> PredictTexts:
    """`_predict_texts` with the saved model of `config`."""
    predict = predict_by_model(config, tree, ranks)
    return lambda texts: _predict_texts(predict, texts, tree, evidence, config=config, ranks=ranks)


def _predict_texts(
    predict: Predict, texts: LabelledRows, tree: LabelTree, evidence: Evidence | None, *, config: Config,
    ranks: Ranks,
) -> tuple[SplitPrediction, SplitPrediction]:  # fmt: skip
    """Predictions of this rank's share of texts, by the cascade alone and by the model with its evidence."""
    wanted = num_candidates(len(texts))
    candidates = wanted if evidence is None else max(wanted, CANDIDATES)
    with_features = evidence is not None and evidence.width("features") is not None
    found = predict_share(
        predict, texts, tree, config.evaluate, ranks,
        num_labels=candidates, windows=window_rule(config, device=ranks.device), with_features=with_features,
    )  # fmt: skip
    return found, with_evidence(found, texts, evidence, min(max(wanted, *config.evaluate.top_k), tree.num_labels))


def _evidence_report(evidence: Evidence, cascade: Mapping[str, float]) -> dict[str, Any]:
    """The part of a report about evidence: metrics of the cascade alone, and of each ranking on validation texts."""
    chosen = evidence.combination
    return {
        "way": chosen.way, "rarity": chosen.rarity, "texts": chosen.num_texts, "validation": chosen.metrics,
        "cascade": cascade, "bytes": {source.name: source.num_bytes for source in evidence.sources},
    }  # fmt: skip


def _choose_decisions(config: Config, predict_texts: PredictTexts, ranks: Ranks) -> Decisions:
    """Choose thresholds and calibration on the validation texts, if any, and store them; on the first rank."""
    texts = validation_texts(data_url(config), config.train.validation_fraction)
    if texts is None:
        return Decisions()
    _, found = predict_texts(texts)
    best = gather_labels(found.rows, found.nodes[-1], found.scores[-1], len(texts), ranks)
    if best is None:
        return Decisions()
    decisions = choose_decisions(*best, texts.labels_csr(), config.evaluate.wanted_precision)
    write_run_decisions(config.output, model_identity(model_url(config)), decisions)
    return decisions


def frequency_groups(
    predicted: np.ndarray, true: sparse.csr_matrix, frequency: np.ndarray, weights: np.ndarray, k: int
) -> dict[str, Any]:
    """`by_frequency` in the form of a report: the cut-off `k`, and `groups` with the fields of `FrequencyGroup`."""
    groups = by_frequency(predicted, true, frequency, weights, k)
    return {"k": k, "groups": [dataclasses.asdict(group) for group in groups]}


def predictions_url(config: Config) -> str:
    """The file with the scores of each test text's best labels."""
    return storage.join(config.output, "predictions.npz")


@dataclasses.dataclass(frozen=True)
class Variant:
    """Options of `Predictor.from_checkpoint`, which change the predictions of a model."""

    rows: RowFormat | None = None
    logit_adjustment: float = 0.0
    propensity_ranking: float = 0.0


def predict_test(config: Config, url: str, scores_url: str, variant: Variant) -> None:
    """Write the scores of each test text's best labels by any model. Runs in every process of the job.

    Args:
        config: config of the run whose test split and processes are used.
        url: model over the same labels, in any form that `Predictor.from_checkpoint` accepts.
        scores_url: file to write, see `cxml.prediction.write_scores`.
        variant: options of the prediction.

    Raises:
        DataError: the model was trained on other labels.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_main=ranks.is_first)
        predictor = Predictor.from_checkpoint(
            url, **dataclasses.asdict(variant), batch_size=config.evaluate.batch_size, device=ranks.device,
            precision=config.evaluate.precision,
            exchange=Exchange(),
        )  # fmt: skip
        names = read_label_table(data_url(config)).names
        if names != list(predictor.names):
            raise DataError(url, "was trained on other labels", "Compare models of one label set.")
        dataset = ShardedDataset(data_url(config), "test")
        start, stop = cut(len(dataset), ranks.world_size)[ranks.rank : ranks.rank + 2]
        share = np.arange(start, stop)
        found = _predict_rows(predictor, dataset, share, max(config.evaluate.top_k), url)
        best = gather_labels(share, found.labels, found.scores, len(dataset), ranks)
        if best is not None:
            write_scores(scores_url, *best, len(names))


def _predict_rows(predictor: Predictor, dataset: ShardedDataset, rows: np.ndarray, k: int, url: str) -> Predictions:
    """Predict rows of a data set, from their texts if stored, because the model may have another tokenizer."""
    if dataset.has_texts:
        return predictor.predict(dataset.texts(rows), k)
    if predictor.parts.facts["tokenizer"] != dataset.manifest.tokenizer.fingerprint:
        problem = "has another tokenizer, and the data set keeps no texts"
        raise DataError(url, problem, "Prepare the data with data.keep_text: true.")
    evidence = predictor.parts.evidence
    has_words = evidence is not None and evidence.vocabulary is not None
    words = dataset.features(rows) if has_words else None  # of the run's own words, as its own tokens
    return predictor.predict_tokens(dataset.gather(rows)[0], k, words=words)


def _examples(config: Config, best: tuple[np.ndarray, np.ndarray] | None) -> list[dict[str, Any]]:
    """A few test texts, spread over the split, with their true labels and the five best predicted ones.

    `best` are the labels of the whole split and their scores; None gives no examples.
    """
    dataset = ShardedDataset(data_url(config), "test")
    count = min(config.evaluate.examples, len(dataset)) if config.data.keep_text else 0
    rows = np.linspace(0, len(dataset) - 1, count + 2).astype(np.int64)[1:-1]
    if best is None or not len(rows):
        return []
    names = read_label_table(data_url(config)).shown
    _, labels = dataset.gather(rows)
    return [
        {
            "text": text,
            "true": [names[label] for label in labels.values[labels.offsets[i] : labels.offsets[i + 1]]],
            "predicted": [
                {"label": names[label], "score": round(score, 4)}
                for label, score in zip(best[0][rows[i], :5].tolist(), best[1][rows[i], :5].tolist(), strict=True)
                if label >= 0
            ],
        }
        for i, text in enumerate(dataset.texts(rows))
    ]
