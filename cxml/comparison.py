"""Compare systems on one test split: metrics with confidence intervals, by label frequency, and their ensemble.

A system is a run's model, another model over the same labels, the same model with compressed label rows, adjusted
logits or label weights, or a file of another system's scores.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from cxml import storage
from cxml.checkpoint import model_url
from cxml.config import Config
from cxml.data import ShardedDataset, data_url, read_label_table
from cxml.errors import ConfigError, DataError
from cxml.launching import RunJob
from cxml.metrics import (
    calibration,
    interval,
    mean_scores,
    metric_rows,
    metric_sums,
    resampled_metrics,
    top_labels,
)
from cxml.parallel import run_workers
from cxml.prediction import RowFormat, model_identity, read_scores, require_power
from cxml.prediction.arguments import as_finite
from cxml.report import print_comparison
from cxml.training.evaluate_job import Variant, frequency_groups, predict_test, predictions_url
from cxml.training.evaluation import propensity_weights

_log = logging.getLogger(__name__)
OWN, ENSEMBLE = "CascadeXML", "ensemble"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The systems to compare a run's model with.

    Attributes:
        models: URL of each further model by its name in the tables; see `Predictor.from_checkpoint`.
        predictions: file of each further system's scores, by name; see `cxml.prediction.read_scores`.
        rows: number formats of label rows to try with the run's own model.
        logit_adjustments: fractions of the labels' log odds to subtract, so that rare labels rank higher.
        propensity_rankings: powers of the inverse propensity to multiply scores by, for the same purpose.
        ensemble: also evaluate the mean of all models' and systems' scores.
        resamples: number of bootstrap samples.
    """

    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    predictions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: tuple[RowFormat, ...] = ()
    logit_adjustments: tuple[float, ...] = ()
    propensity_rankings: tuple[float, ...] = ()
    ensemble: bool = False
    resamples: int = 1000

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ConfigError("--resamples", self.resamples, "is too few for an interval", "Use 1000.")
        for part in self.logit_adjustments:
            as_finite("--logit-adjustments", part)
        for power in self.propensity_rankings:
            require_power("--propensity-rankings", power)
        names = [*self.models, *self.predictions]
        taken = {OWN, ENSEMBLE, *self.variants()}
        for name in names:
            if names.count(name) > 1 or name in taken:
                raise ConfigError("--models, --predictions", name, "is given twice", "Name each system uniquely.")
        if self.ensemble and not names:
            raise ConfigError("--ensemble", True, "there is only one system", "Add others: --models or --predictions.")

    def require_places(self) -> None:
        """Raise `DataError` before any work if a further model or a file of scores is missing."""
        for url in self.models.values():
            model_identity(url)
        for file in self.predictions.values():
            if not storage.exists(file):
                raise DataError(file, "is missing", "Check the path: --predictions NAME=FILE.")

    def variants(self) -> dict[str, Variant]:
        """The variants of the run's own model, by name."""
        return {
            **{f"{OWN}, {rows}": Variant(rows=rows) for rows in self.rows},
            **{
                f"{OWN}, logits adjusted by {part:g}": Variant(logit_adjustment=part) for part in self.logit_adjustments
            },
            **{
                f"{OWN}, scores times propensity^-{power:g}": Variant(propensity_ranking=power)
                for power in self.propensity_rankings
            },
        }


def compare(config: Config, comparison: Comparison, run_job: RunJob = run_workers) -> dict[str, Any]:
    """Print the tables of an evaluated run and the other systems, and write the metrics to `comparison.json`.

    Args:
        config: config of the run, which has been evaluated.
        comparison: the other systems.
        run_job: starts the predicting processes.

    Returns:
        `systems`: by name, `metrics` in percent, `intervals` of 95 % and, except for the first, `differences` from it
        with their intervals; `by_frequency`: groups of labels, of the first system; `calibration` of its scores.

    Raises:
        DataError: a model or a file is broken, or belongs to other texts or labels.
    """
    test = ShardedDataset(data_url(config), "test")
    truth = test.labels_csr()
    systems = _scores(config, comparison, run_job, len(test), test.manifest.num_labels)
    frequency, weights = read_label_table(data_url(config)).frequency, propensity_weights(config)
    ks = config.evaluate.top_k
    width = max(ks)
    ranked = {name: top_labels(scores, width) for name, scores in systems.items()}
    found = _with_intervals(ranked, truth, ks, weights, comparison.resamples)
    bins, error = calibration(systems[OWN], truth)
    result = {
        "systems": found,
        "by_frequency": frequency_groups(ranked[OWN], truth, frequency, weights, width),
        "calibration": {"error": error, "bins": [dataclasses.asdict(each) for each in bins]},
    }
    storage.write_json(storage.join(config.output, "comparison.json"), {"resamples": comparison.resamples, **result})
    print_comparison(result)
    return result


def _scores(
    config: Config, comparison: Comparison, run_job: RunJob, num_texts: int, num_labels: int
) -> dict[str, sparse.csr_matrix]:
    """The scores of every system by name, the run's own first."""
    files = {OWN: predictions_url(config)}
    wanted = {
        **{name: (model_url(config), variant) for name, variant in comparison.variants().items()},
        **{name: (url, Variant()) for name, url in comparison.models.items()},
    }
    for number, (name, (url, variant)) in enumerate(wanted.items()):
        _log.info("%s predicts: %s", name, url)
        files[name] = storage.join(config.output, "comparison", f"{number:03d}.npz")
        run_job(predict_test, (config, url, files[name], variant), config.train.num_workers)
    files |= comparison.predictions
    systems = {name: read_scores(file, num_texts, num_labels) for name, file in files.items()}
    if comparison.ensemble:
        joined = [OWN, *comparison.models, *comparison.predictions]
        systems[ENSEMBLE] = mean_scores([systems[name] for name in joined])
    return systems


def _with_intervals(
    ranked: Mapping[str, np.ndarray],
    truth: sparse.csr_matrix,
    ks: tuple[int, ...],
    weights: np.ndarray,
    num_resamples: int,
) -> dict[str, dict[str, Any]]:
    """Metrics of each system and its differences from the first, with their intervals."""
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, np.ndarray] = {}
    for name, labels in ranked.items():
        metrics = metric_sums(labels, truth, ks, weights).result()
        drawn = resampled_metrics(metric_rows(labels, truth, ks, weights), ks, num_resamples)
        found[name] = {"metrics": metrics, "intervals": {metric: interval(drawn[metric]) for metric in metrics}}
        if not first:
            first = drawn
            continue
        base = found[OWN]["metrics"]
        found[name]["differences"] = {
            metric: [metrics[metric] - base[metric], *interval(drawn[metric] - first[metric])] for metric in metrics
        }
    return found
