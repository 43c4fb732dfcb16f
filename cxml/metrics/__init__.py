"""How good a ranking of labels is: precision, recall, nDCG and their propensity-scored forms, at several cut-offs.

Input: predicted label ids int [N, K], best first, -1 where there is none, and the true labels as CSR [N, L].
`metric_sums` counts both once and returns `MetricSums`: plain sums over the N examples, which add up over batches,
shards and ranks without loss. Output: `MetricSums.result()`, a dictionary such as {"P@1": 48.5, ...} in percent.

The propensity-scored metrics weight a hit by how unlikely it was that an annotator found that label:
`inverse_propensities` derives the weights from the labels' frequencies in the training split.

How sure they are: `resampled_metrics` draws the examples again and again. Whether scores are probabilities:
`calibration`. Which labels they come from: `by_frequency`.
Scores of several systems: `mean_scores`, and `top_labels` makes a ranking of them.
"""

from cxml.metrics.bootstrap import Interval, interval, resampled_metrics
from cxml.metrics.calibration import CalibrationBin, calibration
from cxml.metrics.frequency import FrequencyGroup, by_frequency, log_odds
from cxml.metrics.propensity import DEFAULT_PROPENSITY, KNOWN_PROPENSITIES, PropensityConstants, inverse_propensities
from cxml.metrics.ranking import MetricSums, metric_rows, metric_sums
from cxml.metrics.rankings import mean_scores, top_labels

__all__ = [
    "DEFAULT_PROPENSITY",
    "KNOWN_PROPENSITIES",
    "CalibrationBin",
    "FrequencyGroup",
    "Interval",
    "MetricSums",
    "PropensityConstants",
    "by_frequency",
    "calibration",
    "interval",
    "inverse_propensities",
    "log_odds",
    "mean_scores",
    "metric_rows",
    "metric_sums",
    "resampled_metrics",
    "top_labels",
]
