"""Metrics of label rankings and of label decisions.

Input: predicted label ids int [N, K], best first, -1 for none, and the true labels as CSR [N, L].

1. `inverse_propensities` computes the weights of propensity-scored metrics from the labels' frequencies in the training
   split: the inverse probability that an annotator found a label.
2. `metric_sums` computes precision, recall, nDCG and their propensity-scored forms at several cut-offs. It returns
   `MetricSums`, sums over the N examples that can be added over batches, shards and ranks. `label_counts` does the
   same for decisions: precision, recall and F1, micro and macro.

Output: `MetricSums.result()`, a dictionary such as {"P@1": 48.5, ...} in percent.

Confidence intervals: `resampled_metrics` (bootstrap). Calibration: `calibration` measures it, `fit_calibration` fits a
map to probabilities. Label groups: `by_frequency`, `by_group`. Thresholds that maximise a measure:
`micro_f1_threshold` and similar functions. Ensembles: `mean_scores` averages the scores of several systems, and
`top_labels` ranks them.
"""

from cxml.metrics.bootstrap import Interval, interval, resampled_metrics
from cxml.metrics.calibration import Calibration, CalibrationBin, calibration, fit_calibration
from cxml.metrics.frequency import (
    USUAL_GROUPS,
    FrequencyGroup,
    by_frequency,
    by_group,
    log_odds,
    usual_groups,
    within_group,
)
from cxml.metrics.label_counts import LabelCounts, label_counts, r_precision
from cxml.metrics.propensity import DEFAULT_PROPENSITY, KNOWN_PROPENSITIES, PropensityConstants, inverse_propensities
from cxml.metrics.ranking import MetricSums, metric_rows, metric_sums
from cxml.metrics.score_matrices import mean_scores, top_labels
from cxml.metrics.thresholds import (
    ScoredPairs,
    Thresholds,
    macro_f1_thresholds,
    micro_f1_threshold,
    precision_threshold,
)

__all__ = [
    "DEFAULT_PROPENSITY",
    "KNOWN_PROPENSITIES",
    "USUAL_GROUPS",
    "Calibration",
    "CalibrationBin",
    "FrequencyGroup",
    "Interval",
    "LabelCounts",
    "MetricSums",
    "PropensityConstants",
    "ScoredPairs",
    "Thresholds",
    "by_frequency",
    "by_group",
    "calibration",
    "fit_calibration",
    "interval",
    "inverse_propensities",
    "label_counts",
    "log_odds",
    "macro_f1_thresholds",
    "mean_scores",
    "metric_rows",
    "metric_sums",
    "micro_f1_threshold",
    "precision_threshold",
    "r_precision",
    "resampled_metrics",
    "top_labels",
    "usual_groups",
    "within_group",
]
