"""The HTML report: complete, self-contained, and safe for any texts and names.

Oracles: Python's HTML parser, and a real browser where one is installed.
"""

import json
from html.parser import HTMLParser

import pytest
from support.browser import needs_browser, page_in_browser

from cxml.report import PAGE_FILE, write_page

STEPS = [
    {"kind": "train", "epoch": 0.1 * step, "level_losses": [0.5 / step, 0.1 / step], "lr_factor": 0.1 * step,
     "samples_per_second": 40.0}
    for step in range(1, 9)
]  # fmt: skip
REPORT = {
    "level_sizes": [8, 90],
    "levels": [{"P@1": 70.25, "cluster_recall": 98.5}, {"P@1": 61.5, "PSP@1": 23.25}],
    "baseline": {"P@1": 65.75, "PSP@1": 22.0},
    "examples": [
        {"text": "<script>alert(1)</script> chest pain", "true": ["R07", "<b>"],
         "predicted": [{"label": "R07", "score": 0.9}, {"label": "K 1 & 2", "score": 0.25}]}
    ],
    "by_frequency": {
        "k": 5,
        "groups": [
            {"least": 1, "most": 3, "num_labels": 45, "num_true": 9, "precision": 4.5, "psp": 9.25, "recall": 30.0},
        ],
    },
}  # fmt: skip


class Reader(HTMLParser):
    """Open tags, their attributes, and the visible text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "path", "use", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def page_of(folder, report, comparison=None, steps=STEPS):
    if steps:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    write_page(str(folder), report, "seed: 0\n", comparison)
    reader = Reader()
    content = (folder / PAGE_FILE).read_text()
    reader.feed(content)
    assert not reader.open, "every tag is closed"
    return content, " ".join(" ".join(reader.text).split()), reader.attributes


def test_it_shows_metrics_charts_examples_and_config(tmp_path):
    content, text, _ = page_of(tmp_path, REPORT)
    shown = (
        "61.50", "65.75", "Parabel", "8 clusters", "cluster_recall", "98.50", "Loss per level", "Throughput", "seed: 0",
        "R07 (true)",
        "Recall@5 by label frequency", "Cluster recall of each level",
    )  # fmt: skip
    for part in shown:
        assert part in text
    assert content.count("<svg") == 6


def test_the_cluster_recall_of_a_report_of_version_0_2_0_is_drawn_too(tmp_path):
    coarse, *finer = REPORT["levels"]
    earlier = REPORT | {"levels": [{"P@1": coarse["P@1"], "reach": coarse["cluster_recall"]}, *finer]}
    content, text, _ = page_of(tmp_path, earlier)
    assert "Cluster recall of each level" in text
    assert content.count("<svg") == 6


def test_figures_that_only_newer_records_have_are_drawn_where_they_are(tmp_path):
    newer = [{**step, "gradient_norm": 0.5, "tokens_per_second": 900.0, "device_peak_gib": 2.0} for step in STEPS[4:]]
    content, text, _ = page_of(tmp_path, REPORT, steps=[*STEPS[:4], *newer])
    assert "Gradient norm" in text
    assert "FLOP" not in text
    assert content.count("<svg") == 9


def test_texts_and_names_are_shown_not_run(tmp_path):
    content, text, _ = page_of(tmp_path, REPORT)
    assert "<script" not in content
    assert "<script>alert(1)</script> chest pain" in text
    assert "R07; <b>" in text


def test_it_loads_nothing_from_elsewhere(tmp_path):
    _, _, attributes = page_of(tmp_path, REPORT)
    links = [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith("#") for value in links)


def test_intervals_of_a_comparison_take_the_place_of_plain_metrics(tmp_path):
    found = {"systems": {"CascadeXML": {"metrics": {"P@1": 61.5}, "intervals": {"P@1": [60.5, 62.0]}},
                         "other": {"metrics": {"P@1": 50.0}, "intervals": {"P@1": [49.0, 51.0]}}}}  # fmt: skip
    _, text, _ = page_of(tmp_path, REPORT, found)
    assert "61.50 ± 0.75" in text
    assert "50.00 ± 1.00" in text


def test_it_shows_what_thresholds_decide_and_groups_of_labels(tmp_path):
    metrics = {"micro-F1": 61.25, "labels per text": 2.5}
    decided = {
        "decisions": {
            "texts": 1200, "thresholds": {"micro-f1": {"shared": 0.25, "own": 0}}, "metrics": {"micro-f1": metrics},
        },
        "label_groups": {
            "k": 5, "threshold": "micro-f1",
            "groups": {"few": {"num_labels": 45, "num_true": 9, "RP@5": 33.25, "micro-F1": 44.5}},
        },
        "calibrated": {"scores": 0.1234, "probabilities": 0.0123},
    }  # fmt: skip
    _, text, _ = page_of(tmp_path, {**REPORT, **decided})
    for part in ("1,200 validation texts", "61.25", "0.250", "0.123 of scores, 0.012 calibrated", "33.25", "44.50"):
        assert part in text


@pytest.mark.parametrize("absent", ["baseline", "by_frequency"])
def test_what_a_run_lacks_is_left_out(tmp_path, absent):
    smaller = {key: value for key, value in REPORT.items() if key != absent}
    smaller |= {"level_sizes": [90], "levels": REPORT["levels"][1:], "examples": []}
    content, text, _ = page_of(tmp_path, smaller, steps=[])
    assert "61.50" in text
    assert "Examples" not in text
    assert content.count("<svg") == (2 if "by_frequency" in smaller else 0)


@needs_browser
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_browser_shows_all_of_it_in_the_colours_of_the_system(tmp_path, colours):
    page_of(tmp_path, REPORT)
    with page_in_browser(colours) as (page, complaints):
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / PAGE_FILE).as_uri())
        charts = page.locator("svg").all()
        assert len(charts) == 6
        assert all(chart.bounding_box()["height"] > 100 for chart in charts)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground.strip("rgb()").split(","))) > 3 * 128) == (colours == "light")
    assert not complaints
    assert len(requests) == 1, "it loads nothing else"


def test_records_that_cannot_be_drawn_are_left_out_of_the_page(tmp_path):
    lines = [b'{"kind": "train", "step": 1}\n', b'{"kind": "train", "level_losses": "x"}\n', b"\xff\n"]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    content, text, _ = page_of(tmp_path, REPORT, steps=None)
    assert "Loss per level" not in text
    assert "<svg" in content
