"""The report of a run on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from cxml.report.tables import (
    ALONE,
    BASELINE,
    OWN,
    Example,
    budget_line,
    decisions_table,
    examples_table,
    groups_table,
    levels_table,
    metrics_table,
    selection_line,
)


def print_report(report: Mapping[str, Any]) -> None:
    """Print a run's report: examples, metrics of each level, and label metrics next to the baseline's.

    Args:
        report: `level_sizes`, `levels`, `examples` and, if present, `budget`, `selection`, `evidence`, `baseline`,
            `decisions` and `label_groups`, in the form of the run's JSON files.
    """
    console = Console()
    if "budget" in report:
        console.print(budget_line(report["budget"]))
    if "selection" in report:
        console.print(selection_line(report["selection"]))
    examples = [
        Example(
            text=example["text"],
            true=example["true"],
            predicted=[(best["label"], best["score"]) for best in example["predicted"]],
        )
        for example in report["examples"]
    ]
    if examples:
        console.print(examples_table(examples))
    if len(report["levels"]) > 1:
        console.print(levels_table(report["level_sizes"], report["levels"]))
    systems = {OWN: report["levels"][-1]}
    if "evidence" in report:
        systems[ALONE] = report["evidence"]["cascade"]
    if "baseline" in report:
        systems[BASELINE] = report["baseline"]
    console.print(metrics_table(systems, "Test split"))
    if "decisions" in report:
        console.print(decisions_table(report["decisions"]))
    if "label_groups" in report:
        console.print(groups_table(report["label_groups"]))
    if "calibrated" in report:
        scores, probabilities = (report["calibrated"][name] for name in ("scores", "probabilities"))
        console.print(f"Expected calibration error: {scores:.3f} of scores, {probabilities:.3f} calibrated")
