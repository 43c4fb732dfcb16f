"""Rich tables that fit 80 columns, on a terminal and in a plain log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from cxml.console import counted

OWN, BASELINE = "CascadeXML", "tf-idf + linear (Parabel)"
"""Display names of the two models of a run."""
ALONE = "CascadeXML alone"
"""Display name of the cascade in a model with evidence."""

_MOST_TRUE_LABELS = 10  # further true labels of an example are only counted


@dataclass(frozen=True, kw_only=True)
class Example:
    """A test text with its true and predicted labels."""

    text: str
    true: Sequence[str]
    """Names of the true labels."""
    predicted: Sequence[tuple[str, float]]
    """Names and scores in [0, 1] of the model's best labels, best first."""


def metrics_table(results: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One row per metric and one column per system, with the best values of each row in bold.

    Args:
        results: metrics in percent by system name, as `MetricSums.result` returns them; a missing metric is shown as a
            dash.
        title: title of the table.
    """
    return _grid(results, title, mark_best=len(results) > 1)


def level_names(level_sizes: Sequence[int]) -> list[str]:
    """Display names of the levels."""
    return [counted(size, "cluster") for size in level_sizes[:-1]] + [counted(level_sizes[-1], "label")]


def levels_table(level_sizes: Sequence[int], results: Sequence[Mapping[str, float]]) -> Table:
    """One column per level of the cascade, coarse to fine: the ranking metrics of its own nodes.

    Args:
        level_sizes: nodes of each level, with the labels last.
        results: metrics of each level in percent.
    """
    return _grid(
        dict(zip(level_names(level_sizes), results, strict=True)), "Each level of the cascade", mark_best=False
    )


def decisions_table(decisions: Mapping[str, Any]) -> Table:
    """One column per threshold: F1, precision and recall of the labels above it, micro and macro.

    Args:
        decisions: `texts`, `thresholds` and `metrics` as `cxml.training.decision_report` returns them.
    """
    thresholds, results = decisions["thresholds"], decisions["metrics"]
    chosen = "no validation texts to choose thresholds on"
    if decisions["texts"]:
        chosen = f"thresholds chosen on {counted(decisions['texts'], 'validation text')}"
    table = Table(
        title="Labels above a threshold, test split", title_justify="left", caption=f"in percent; {chosen}",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    table.add_row("threshold", *(_threshold(thresholds[name]) for name in results), end_section=True)
    metrics = list(next(iter(results.values())))
    for metric, following in zip(metrics, [*metrics[1:], ""], strict=True):
        is_last = metric.partition("-")[0] != following.partition("-")[0]
        table.add_row(metric, *(f"{result[metric]:.2f}" for result in results.values()), end_section=is_last)
    return table


def groups_table(label_groups: Mapping[str, Any]) -> Table:
    """One row per group of labels by train frequency: rankings among its labels only, and decisions for them.

    Args:
        label_groups: `k`, `threshold` and `groups` as `cxml.training.decision_report` returns them.
    """
    k = label_groups["k"]
    columns = (f"recall@{k}", "R-precision", "micro-F1", "macro-F1")
    within = "recall among all labels, R-precision within each group"
    table = Table(
        title="Labels with more than 50 train texts, with 1 to 50, and without any", title_justify="left",
        caption=f"in percent; {within}; F1 at the threshold {label_groups['threshold']}", caption_justify="left",
    )  # fmt: skip
    table.add_column("")
    for column in ("labels", "true", *columns):
        table.add_column(column, justify="right")
    for name, group in label_groups["groups"].items():
        cells = (f"{group[column]:.2f}" if column in group else "-" for column in columns)
        table.add_row(name, f"{group['num_labels']:,}", f"{group['num_true']:,}", *cells)
    return table


def _threshold(facts: Mapping[str, Any]) -> str:
    own = facts["own"]
    return f"{facts['shared']:.3f}" + (f" + {own:,} own" if own else "")


def budget_line(budget: Mapping[str, str]) -> str:
    """The use of a time budget and the effect of a larger one: `plan` and `more` of `cxml.pipeline.time_budget`."""
    return f"{budget['plan'][0].upper()}{budget['plan'][1:]}. {budget['more']}"


def selection_line(selection: Mapping[str, Any]) -> str:
    """The epoch of the model, with the reason for its selection.

    Args:
        selection: `epoch`, `epochs` and `reason` as `cxml.training.read_selection` gives them.
    """
    return f"Selected epoch {selection['epoch']} of {selection['epochs']}: {selection['reason']}"


def examples_table(examples: Sequence[Example]) -> Table:
    """Each text with its true labels, and the model's best labels and scores; a star marks true labels."""
    table = Table(
        title="Examples", title_justify="left", caption="* the label is true", caption_justify="left", show_header=False
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for example in examples:
        table.add_row("text", Text(example.text))
        table.add_row("true", _names(example.true))
        table.add_row("best", _best(example), end_section=True)
    return table


def _grid(columns: Mapping[str, Mapping[str, float]], title: str, *, mark_best: bool) -> Table:
    caption = "in percent; bold is best" if mark_best else "in percent"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("metric")
    for column in columns:
        table.add_column(column, justify="right")
    metrics = list(dict.fromkeys(metric for result in columns.values() for metric in result))
    for metric, following in zip(metrics, [*metrics[1:], ""], strict=True):
        row = [result.get(metric) for result in columns.values()]
        best = max(value for value in row if value is not None)
        cells = [_percent(value, is_bold=mark_best and value == best) for value in row]
        table.add_row(metric, *cells, end_section=_family(metric) != _family(following))
    return table


def _percent(value: float | None, *, is_bold: bool) -> Text:
    return Text("-" if value is None else f"{value:.2f}", style="bold" if is_bold else "")


def _family(metric: str) -> str:
    return metric.partition("@")[0]


def _names(names: Sequence[str]) -> Text:
    shown = "; ".join(names[:_MOST_TRUE_LABELS])
    more = len(names) - _MOST_TRUE_LABELS
    return Text(f"{shown}; and {more} more" if more > 0 else shown)


def _best(example: Example) -> Text:
    true = frozenset(example.true)
    lines = [
        Text(f"{'*' if name in true else ' '} {score:.2f} {name}", style="bold" if name in true else "")
        for name, score in example.predicted
    ]
    return Text("\n").join(lines)
