"""Tables of several systems with confidence intervals, and of one system by label frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from cxml.console import table_console

_LEAST_WIDTH = 100


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the result of `cxml.comparison.compare`."""
    console = table_console(max(_LEAST_WIDTH, 30 * len(result["systems"])))
    console.print(intervals_table(result["systems"]))
    console.print(frequency_table(result["by_frequency"]["groups"], result["by_frequency"]["k"]))
    console.print(calibration_table(result["calibration"]["bins"], result["calibration"]["error"]))


def intervals_table(systems: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per metric and a column per system: the metric, half its 95 % interval, and the difference from the first.

    A difference is bold if its interval excludes 0.

    Args:
        systems: by name, `metrics`, `intervals` and, except for the first, `differences`.
    """
    table = Table(
        title="Test split, with bootstrap intervals of 95 %", title_justify="left",
        caption="In brackets: difference from the first column; bold if its interval excludes 0",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("metric")
    for name in systems:
        table.add_column(name, justify="right")
    metrics = list(next(iter(systems.values()))["metrics"])
    for metric, following in zip(metrics, [*metrics[1:], ""], strict=True):
        cells = [_cell(system, metric) for system in systems.values()]
        table.add_row(metric, *cells, end_section=metric.partition("@")[0] != following.partition("@")[0])
    return table


def frequency_table(groups: Sequence[Mapping[str, float]], k: int) -> Table:
    """A row per group of labels, rare to frequent: its share of P@k and PSP@k, and its recall.

    Args:
        groups: fields of `cxml.metrics.FrequencyGroup`.
        k: cut-off.
    """
    table = Table(title=f"By train texts per label, ten groups of labels, at {k}", title_justify="left")
    for column in ("train texts", "labels", "true in test", f"of P@{k}", f"of PSP@{k}", f"recall@{k}"):
        table.add_column(column, justify="right")
    for group in groups:
        least, most = int(group["least"]), int(group["most"])
        table.add_row(
            f"{least:,}" if least == most else f"{least:,} to {most:,}", f"{group['num_labels']:,}",
            f"{group['num_true']:,}", *(f"{group[name]:.2f}" for name in ("precision", "psp", "recall")),
        )  # fmt: skip
    return table


def calibration_table(bins: Sequence[Mapping[str, float]], error: float) -> Table:
    """A row per range of scores: number of predicted labels, their mean score, and the share of true ones.

    Args:
        bins: fields of `cxml.metrics.CalibrationBin`.
        error: expected calibration error.
    """
    table = Table(
        title="Calibration of the scores", title_justify="left", caption=f"expected calibration error {error:.3f}",
        caption_justify="left",
    )  # fmt: skip
    for column in ("score", "predicted labels", "mean score", "share true"):
        table.add_column(column, justify="right")
    for each in bins:
        ends = f"{each['low']:.1f} to {each['high']:.1f}"
        table.add_row(ends, f"{each['count']:,}", f"{each['mean_score']:.3f}", f"{each['share_true']:.3f}")
    return table


def _cell(system: Mapping[str, Any], metric: str) -> Text:
    low, high = system["intervals"][metric]
    text = Text(f"{system['metrics'][metric]:.2f} ± {(high - low) / 2:.2f}")
    if "differences" in system:
        difference, least, most = system["differences"][metric]
        is_clear = least > 0 or most < 0
        text.append(f" ({difference:+.2f})", style="bold" if is_clear else "dim")
    return text
