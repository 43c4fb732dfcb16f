"""Draw docs/images/quality.svg and docs/images/speed.svg from the tables of docs/results.md.

python docs/draw_charts.py    write both charts; `make charts` does the same

The figures are read from the tables, found by their heading and columns. The same tables give the same bytes with the
same version of matplotlib.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxml.errors import CxmlError, DataError
from cxml.report.charts import svg_of

RESULTS = Path(__file__).parent / "results.md"
IMAGES = Path(__file__).parent / "images"

_OWN, _OTHER, _THIRD = "#010204", "#010205", "#010206"  # stand for the colours below
_COLOURS = {  # in light and in dark mode
    _OWN: ("own", "#2b6cb0", "#63a4e8"),
    _OTHER: ("other", "#9aa5b1", "#66727f"),
    _THIRD: ("third", "#d08a2e", "#e0a04a"),
}
_SYSTEMS = (
    "CascadeXML",
    "PECOS XR-Transformer",
    "omikuji, Bonsai",
    "PECOS XR-Linear",
    "omikuji, Parabel",
    "MiniLM, nearest label centroid",
)
_METRICS = ("P@1", "P@3", "P@5", "PSP@5")


@dataclass(frozen=True)
class Table:
    """A table of a Markdown page.

    Attributes:
        place: the page and the heading, for errors.
        rows: each as a mapping from column to cell. An empty first cell repeats the one above it; of columns with one
            name only the first is there.
    """

    place: str
    rows: list[dict[str, str]]

    def row(self, **cells: str) -> dict[str, str]:
        """The first row with these cells, where `first` means the first column.

        Raises:
            DataError: there is none.
        """
        for row in self.rows:
            if all(row[next(iter(row)) if name == "first" else name] == cell for name, cell in cells.items()):
                return row
        wanted = " and ".join(f"{name} {cell!r}" for name, cell in cells.items())
        raise DataError(self.place, f"no row has {wanted}", "Name the rows in docs/draw_charts.py as the table does.")


def find_table(page: str, heading: str, columns: Sequence[str]) -> Table:
    """The first table in the section `## heading` of a Markdown text that has all of the columns.

    Raises:
        DataError: there is no such section, or no such table in it.
    """
    remedy = "Name heading and columns in docs/draw_charts.py as the page does."
    sections = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    titles = sections[1::2]
    if heading not in titles:
        raise DataError(RESULTS.name, f"has no section {heading!r}", remedy)
    place = f"{RESULTS.name}, section {heading!r}"
    for lines in re.findall(r"(?:^\|.*\n)+", sections[2 * titles.index(heading) + 2], re.MULTILINE):
        header, _, *body = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines()]
        if set(columns) <= set(header):
            for above, cells in pairwise(body):
                cells[0] = cells[0] or above[0]
            firsts = {name: header.index(name) for name in header}
            return Table(place, [{name: cells[column] for name, column in firsts.items()} for cells in body])
    raise DataError(place, f"no table has the columns {', '.join(columns)}", remedy)


def number(cell: str) -> float:
    """The number that a cell begins with, such as 33486 of `**33,486** (goal 20,000)`.

    Raises:
        DataError: it begins with none.
    """
    found = re.match(r"\**(\d[\d,]*(?:\.\d+)?)", cell)
    if found is None:
        raise DataError(RESULTS.name, f"{cell!r} is not a number", "Correct the cell.")
    return float(found[1].replace(",", ""))


def draw_quality(figure: Figure, page: str) -> None:
    """A panel for each data set and metric, a bar in it for each system."""
    grid = figure.subplots(2, len(_METRICS), sharex=True, sharey=True)
    for panels, data_set in zip(grid, ("WordNet", "ICD-10-CM"), strict=True):
        table = find_table(page, data_set, _METRICS)
        for axes, metric in zip(panels, _METRICS, strict=True):
            values = [number(table.row(first=system)[metric]) for system in _SYSTEMS]
            _draw_bars(axes, _SYSTEMS, values, [_OWN, *[_OTHER] * (len(_SYSTEMS) - 1)])
            axes.set_title(metric, fontsize=9)
            axes.set(xlim=(0, 140), xticks=[])
            axes.spines["bottom"].set_visible(False)
        panels[0].set_ylabel(data_set, fontsize=10, fontweight="bold")


def draw_speed(figure: Figure, page: str) -> None:
    """Training steps beside their encoder, tree building, and prediction."""
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    _draw_steps(upper.subplots(), find_table(page, "Training speed", ("machine", "encoder alone")))
    tree, prediction = lower.subplots(1, 2)
    _draw_tree(tree, find_table(page, "Label tree", ("labels", "cxml, s", "PECOS, s")))
    _draw_prediction(prediction, find_table(page, "Prediction", ("system", "threads", "texts/s")))


def _draw_steps(axes: Axes, table: Table) -> None:
    """Texts per second of training, of its encoder alone, and of a loop text by text, on each machine."""
    machines = [row["machine"] for row in table.rows]
    columns = {"training, texts/s": ("training step", _OWN), "encoder alone": ("its encoder alone", _OTHER),
               "plain": ("text by text", _THIRD)}  # fmt: skip
    for place, (column, (label, colour)) in enumerate(columns.items()):
        rows = [(index, number(row[column])) for index, row in enumerate(table.rows) if row[column]]
        places = [index + 0.27 * (place - 1) for index, _ in rows]
        bars = axes.barh(places, [value for _, value in rows], 0.25, color=colour, label=label)
        axes.bar_label(bars, fmt="{:,.1f}", fontsize=8, padding=2)
    axes.set_yticks(range(len(machines)), [textwrap.fill(machine, 42) for machine in machines], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_title("Training, texts per second", fontsize=10, fontweight="bold")
    axes.legend(frameon=False, loc="lower right", fontsize=8)


def _draw_tree(axes: Axes, table: Table) -> None:
    """Seconds of both systems for each number of labels; those of other machines than the table's first have a star."""
    newest = table.rows[0]["machine"]
    names = [row["labels"] + ("" if row["machine"] == newest else " *") for row in table.rows]
    own, other = ([number(row[column]) for row in table.rows] for column in ("cxml, s", "PECOS, s"))
    axes.hlines(range(len(names)), own, other, color=_OTHER, linewidth=1)
    for values, label, colour, offset in ((own, "cxml", _OWN, (-6, "right")), (other, "PECOS", _OTHER, (6, "left"))):
        axes.scatter(values, range(len(names)), color=colour, s=30, zorder=3, label=label)
        _mark(axes, values, "{:,.2f}", (offset[0], -2.5), offset[1])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xscale="log", xlim=(0.03, 400), ylim=(len(names) - 0.5, -0.7))
    axes.xaxis.set_major_formatter("{x:g}")
    others = "; ".join(dict.fromkeys(row["machine"] for row in table.rows if row["machine"] != newest))
    axes.set_xlabel(textwrap.fill(f"* {others}", 44) if others else "", fontsize=8)
    axes.set_ylabel("labels", fontsize=8)
    axes.set_title("Building the tree, seconds", fontsize=10, fontweight="bold")
    axes.legend(frameon=False, loc="upper right", fontsize=8)


def _draw_prediction(axes: Axes, table: Table) -> None:
    """Texts per second of each system with as many threads as it was run with."""
    fastest = {row["system"]: row for row in table.rows}  # rows of a system come with rising threads
    names = [f"{textwrap.fill(system, 22)}\n{row['threads']} thread{'s' * (row['threads'] != '1')}"
             for system, row in fastest.items()]  # fmt: skip
    values = [number(row["texts/s"]) for row in fastest.values()]
    axes.hlines(range(len(names)), 1, values, color=_OTHER, linewidth=1)
    axes.scatter(values, range(len(names)), color=[_OWN, *[_OTHER] * (len(names) - 1)], s=30, zorder=3)
    _mark(axes, values, "{:,.0f}", (6, -2.5), "left")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xscale="log", xlim=(10, 500_000), ylim=(len(names) - 0.5, -0.7))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Prediction, texts per second", fontsize=10, fontweight="bold")


def _mark(axes: Axes, values: Sequence[float], form: str, offset: tuple[float, float], side: str) -> None:
    """Write the value of each row beside its point."""
    for place, value in enumerate(values):
        axes.annotate(
            form.format(value), (value, place), xytext=offset, textcoords="offset points", ha=side, fontsize=8
        )


def _draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str]) -> None:
    """Horizontal bars from top to bottom, the largest value in bold."""
    bars = axes.barh(range(len(names)), values, 0.72, color=colours)
    for text, value in zip(axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2), values, strict=True):
        text.set_fontweight("bold" if value == max(values) else "normal")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)


CHARTS: dict[str, tuple[Callable[[Figure, str], None], tuple[float, float], str]] = {
    "quality.svg": (draw_quality, (8, 4.2), "Quality on the test splits, in percent"),
    "speed.svg": (draw_speed, (8, 6.4), "Speed on two cores"),
}
"""What draws each chart, its size in inches, and its title for screen readers."""


def chart(name: str, page: str) -> str:
    """A chart as an SVG file that is readable on light and on dark pages.

    Raises:
        DataError: a table, row or figure is missing on the page.
    """
    draw, size, title = CHARTS[name]

    def fill(figure: Figure) -> None:
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        draw(figure, page)

    svg = re.sub(r"'DejaVu Sans'(, '[^']*')*, sans-serif", "sans-serif", svg_of(fill, size))
    light = "color: #1c2430; " + "".join(f"--{key}: {colour}; " for key, colour, _ in _COLOURS.values())
    dark = "color: #e4e8ee; " + "".join(f"--{key}: {colour}; " for key, _, colour in _COLOURS.values())
    for stand_in, (key, _, _) in _COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{key})")
    begin = svg.index(">") + 1
    own = (
        f"\n <title>{title}</title>\n <style>\n  svg {{ {light}}}\n  .paper {{ fill: #ffffff; }}\n"
        f"  @media (prefers-color-scheme: dark) {{\n   svg {{ {dark}}}\n   .paper {{ fill: #14181e; }}\n  }}\n </style>"
        '\n <rect class="paper" width="100%" height="100%" rx="6"/>'
    )
    return svg[:begin] + own + svg[begin:]


def main() -> int:
    """Write the charts; the exit code."""
    page = RESULTS.read_text()
    try:
        charts = {name: chart(name, page) for name in CHARTS}
    except CxmlError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    for name, svg in charts.items():
        (IMAGES / name).write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
