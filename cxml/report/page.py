"""A run as one self-contained HTML file: metrics, training curves, cluster recall, examples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from cxml import extras, storage, urls
from cxml.artefacts import read_records
from cxml.report.tables import ALONE, BASELINE, OWN, budget_line, level_names, selection_line

_log = logging.getLogger(__name__)

PAGE_FILE = "report.html"
_NEEDED = ("jinja2", "matplotlib")
_CLUSTER_RECALL = ("cluster_recall", "reach")
"""Names of the cluster recall in a report; versions up to 0.2.0 wrote the second."""
_SINCE_RECORDS = {  # charts of fields that older runs and some machines do not record
    "Tokens, without padding": ("tokens_per_second", "tokens per second"),
    "Gradient norm before clipping": ("gradient_norm", "norm"),
    "Peak memory of an accelerator": ("device_peak_gib", "GiB"),
    "Model FLOP utilisation": ("flop_utilisation", "share of the peak"),
}


def write_page(
    output: str, report: Mapping[str, Any], config_text: str, comparison: Mapping[str, Any] | None = None
) -> None:
    """Write `report.html` into a run's output. If its packages are not installed, only log that it is skipped.

    Args:
        output: the run's output, including `metrics.jsonl`.
        report: the argument of `print_report`, optionally with `by_frequency`.
        config_text: the run's config, to show.
        comparison: the result of `cxml.comparison.compare`, if any.
    """
    missing = [name for name in _NEEDED if not extras.is_installed(name)]
    if missing:
        _log.info("Skipped %s: %s not installed (pip install 'cxml[plots]')", PAGE_FILE, " and ".join(missing))
        return
    import jinja2  # noqa: PLC0415 - optional packages

    source = resources.files("cxml.report").joinpath("page.html.jinja").read_text()
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    page = template.render(
        output=urls.masked(output), config=config_text, levels=_levels(report), systems=_systems(report, comparison),
        charts=_charts(report, _steps(output)), examples=report["examples"], comparison=comparison,
        budget=budget_line(report["budget"]) if "budget" in report else None,
        selection=selection_line(report["selection"]) if "selection" in report else None,
        decisions=report.get("decisions"), calibrated=report.get("calibrated"), label_groups=_label_groups(report),
    )  # fmt: skip
    url = storage.join(output, PAGE_FILE)
    storage.write_atomic(url, page.encode())
    _log.info("Report: %s", url)


def _levels(report: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return dict(zip(level_names(report["level_sizes"]), report["levels"], strict=True))


def _systems(report: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """Each system's metrics as text, with half of their intervals if known."""
    if comparison is None:
        found = {OWN: report["levels"][-1]}
        if "evidence" in report:
            found[ALONE] = report["evidence"]["cascade"]
        if "baseline" in report:
            found[BASELINE] = report["baseline"]
        return {name: {key: f"{value:.2f}" for key, value in metrics.items()} for name, metrics in found.items()}
    systems = {
        name: {
            key: f"{value:.2f} ± {(system['intervals'][key][1] - system['intervals'][key][0]) / 2:.2f}"
            for key, value in system["metrics"].items()
        }
        for name, system in comparison["systems"].items()
    }
    if "baseline" in report:
        systems[BASELINE] = {key: f"{value:.2f}" for key, value in report["baseline"].items()}
    return systems


def _label_groups(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The groups with the names of the columns to show."""
    if "label_groups" not in report:
        return None
    k = report["label_groups"]["k"]
    columns = (f"recall@{k}", f"RP@{k}", f"nDCG@{k}", "R-precision", "micro-P", "micro-R", "micro-F1", "macro-F1")
    return {**report["label_groups"], "columns": columns}


def _steps(output: str) -> list[dict[str, Any]]:
    """The training records in `metrics.jsonl`."""
    records = (record for _, record in read_records(storage.join(output, "metrics.jsonl")))
    return [record for record in records if record["kind"] == "train" and _can_be_drawn(record)]


def _can_be_drawn(record: Mapping[str, Any]) -> bool:
    numbers = [record.get(name) for name in ("epoch", "lr_factor", "samples_per_second")]
    losses = record.get("level_losses")
    return isinstance(losses, list) and all(isinstance(value, int | float) for value in (*numbers, *losses))


def _charts(report: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """SVG by title."""
    from cxml.report.charts import bars_chart, line_chart, losses_chart  # noqa: PLC0415 - an optional package

    charts = {}
    if steps:
        charts["Loss per level"] = losses_chart(steps, level_names(report["level_sizes"]))
        charts["Learning rate, share of its peak"] = line_chart(steps, "lr_factor", "share")
        charts["Throughput"] = line_chart(steps, "samples_per_second", "texts per second")
        for title, (name, label) in _SINCE_RECORDS.items():
            known = [step for step in steps if isinstance(step.get(name), int | float)]
            if known:
                charts[title] = line_chart(known, name, label)
    recall = [level[name] for level in report["levels"][:-1] for name in _CLUSTER_RECALL if name in level]
    if recall:
        names = level_names(report["level_sizes"])[:-1]
        charts["Cluster recall of each level, in percent of true labels"] = bars_chart(
            names, {"cluster recall": recall}, "level of clusters", "percent"
        )
    groups = report.get("by_frequency", {}).get("groups", [])
    if groups:
        k = report["by_frequency"]["k"]
        names = [f"{group['least']:,}-{group['most']:,}" for group in groups]
        parts = {f"P@{k}": "precision", f"PSP@{k}": "psp"}
        series = {name: [group[field] for group in groups] for name, field in parts.items()}
        charts["Contribution of each label frequency"] = bars_chart(names, series, "train texts per label", "points")
        charts[f"Recall@{k} by label frequency"] = bars_chart(
            names, {"recall": [group["recall"] for group in groups]}, "train texts per label", "percent"
        )
    return charts
