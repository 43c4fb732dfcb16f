"""The report at the end of a run: metrics per level and next to those of a linear baseline, and examples.

Input: metrics from `cxml.metrics`, names and scores of predicted labels, and the prepared tf-idf features.

1. `linear_baseline` trains omikuji's Parabel on these features and ranks the labels of the test split.
2. `metrics_table`, `levels_table`, `decisions_table` and other functions make tables for a rich console.
3. `write_page` writes the tables to one HTML file, with charts.

Output: the ranking of the baseline, tables, and a page.
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
