"""The charts of the documentation show the figures of docs/results.md and match the script that draws them.

Oracles: the script, and pandas as a second reader of the tables.
"""

import io
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pandas
import pytest

from cxml.errors import DataError

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "results.md").read_text()
SCRIPT = runpy.run_path(str(DOCS / "draw_charts.py"))
SYSTEMS = (
    "CascadeXML", "PECOS XR-Transformer", "PECOS XR-Linear", "omikuji, Bonsai", "omikuji, Parabel",
    "MiniLM, nearest label centroid",
)  # fmt: skip


def written(name):
    return (DOCS / "images" / name).read_text()


def texts_of(name):
    root = ElementTree.fromstring(written(name))
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def table_of(heading, first):
    """The table of a section whose header begins with the cell `first`, as pandas reads it."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    text = section[section.index(f"|{first}|") :].split("\n\n")[0]
    header, _, *lines = text.strip().splitlines()
    return pandas.read_csv(io.StringIO("\n".join([header, *lines])), sep=r"\s*\|\s*", engine="python", dtype=str)


@pytest.mark.parametrize("name", SCRIPT["CHARTS"])
def test_the_committed_chart_is_what_the_script_draws(name):
    drawn = SCRIPT["chart"](name, PAGE)
    assert SCRIPT["chart"](name, PAGE) == drawn, "the same bytes each time"
    if f"Matplotlib v{matplotlib.__version__}," not in written(name):
        pytest.skip("it was drawn by another version of matplotlib; the tests below compare its figures")
    assert written(name) == drawn, "run: make charts"


@pytest.mark.parametrize("heading", ["WordNet", "ICD-10-CM"])
def test_quality_shows_the_figures_of_the_results(heading):
    table = table_of(heading, " ")
    systems = table[table.iloc[:, 1].isin(SYSTEMS)]
    assert len(systems) == len(SYSTEMS)
    assert {*systems[["P@1", "P@3", "P@5", "PSP@5"]].to_numpy().flat} <= {*texts_of("quality.svg")}, "run: make charts"


@pytest.mark.parametrize(
    ("heading", "first", "columns"),
    [
        ("Training speed", " machine ", ["training, texts/s", "encoder alone", "plain"]),
        ("Label tree", " machine ", ["cxml, s", "PECOS, s"]),
        ("Prediction", " system ", ["texts/s"]),
    ],
)
def test_speed_shows_the_figures_of_the_results(heading, first, columns):
    table = table_of(heading, first)
    if heading == "Prediction":  # of each system, with as many threads as it was run with
        table = table.groupby(table["system"].ffill()).last()
    figures = {*table[columns].stack().dropna()}
    assert len(figures) >= 4
    assert figures <= {*texts_of("speed.svg")}, "run: make charts"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (lambda page: page.replace("## WordNet\n", "## Glosses\n"), "has no section 'WordNet'"),
        (lambda page: page.replace("PSP@5", "PSP at 5"), "section 'WordNet': no table has the columns P@1, P@3"),
        (lambda page: page.replace("| omikuji, Bonsai |", "| Bonsai |"), "no row has first 'omikuji, Bonsai'"),
        (lambda page: page.replace("| 72.75 |", "| soon |"), "'soon' is not a number"),
    ],
)
def test_a_figure_that_the_page_lacks_is_named(changed, problem):
    with pytest.raises(DataError, match=re.escape(problem)) as raised:
        SCRIPT["chart"]("quality.svg", changed(PAGE))
    assert raised.value.file.startswith("results.md")
