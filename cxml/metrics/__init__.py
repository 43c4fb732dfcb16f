"""How good a ranking of labels is: precision, recall, nDCG and their propensity-scored forms, at several cut-offs.

Input: predicted label ids int [N, K], best first, -1 where there is none, and the true labels as CSR [N, L].
`metric_sums` counts both once and returns `MetricSums`: plain sums over the N examples, which add up over batches,
shards and ranks without loss. Output: `MetricSums.result()`, a dictionary such as {"P@1": 48.5, ...} in percent.

The propensity-scored metrics weight a hit by how unlikely it was that an annotator found that label:
`inverse_propensities` derives the weights from the labels' frequencies in the training split.
"""

from cxml.metrics.propensity import DEFAULT_PROPENSITY, KNOWN_PROPENSITIES, PropensityConstants, inverse_propensities
from cxml.metrics.ranking import MetricSums, metric_sums

__all__ = [
    "DEFAULT_PROPENSITY",
    "KNOWN_PROPENSITIES",
    "MetricSums",
    "PropensityConstants",
    "inverse_propensities",
    "metric_sums",
]
