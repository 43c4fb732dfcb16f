"""What a run tells at its end: its metrics beside those of a linear baseline, level by level, and some examples.

Input: metrics as `cxml.metrics` returns them, names and scores of predicted labels, and the prepared tf-idf features.
`linear_baseline` trains omikuji's Parabel on these features and ranks the test split's labels. Output: that ranking,
and tables (`metrics_table`, `levels_table`, `decisions_table`, `groups_table`, `examples_table`, `intervals_table`,
`frequency_table`) that a rich console prints; `write_page` makes one HTML file of them, with charts.
"""

from cxml.report.baseline import linear_baseline, require_baseline
from cxml.report.comparison_tables import calibration_table, frequency_table, intervals_table, print_comparison
from cxml.report.page import PAGE_FILE, write_page
from cxml.report.summary import print_report
from cxml.report.tables import (
    Example,
    decisions_table,
    examples_table,
    groups_table,
    levels_table,
    metrics_table,
)

__all__ = [
    "PAGE_FILE",
    "Example",
    "calibration_table",
    "decisions_table",
    "examples_table",
    "frequency_table",
    "groups_table",
    "intervals_table",
    "levels_table",
    "linear_baseline",
    "metrics_table",
    "print_comparison",
    "print_report",
    "require_baseline",
    "write_page",
]
