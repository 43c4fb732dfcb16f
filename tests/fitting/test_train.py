"""`cxml.train` from Python: accepted inputs, chosen settings, the returned model, and refused inputs.

Oracles: small texts of known labels, and the same rows in other containers.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support.runs import make_encoder

import cxml
from cxml.errors import ConfigError, CxmlError
from cxml.fitting.tables import rows_of
from cxml.fitting.train import _config
from cxml.prediction.arguments import indicators_of

TEXTS = [f"{fruit} and {fruit} {i}" for i in range(8) for fruit in ("apple", "pear", "plum")]
LABELS = [[fruit, "fruit"] for _ in range(8) for fruit in ("apples", "pears", "plums")]
QUICK = {"train.epochs": 12, "train.precision": "fp32", "optim.encoder_lr": 1e-3, "evaluate.precision": "fp32"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder):
    """A model and where its run lies."""
    output = tmp_path_factory.mktemp("trained")
    return cxml.train(TEXTS, LABELS, output=output, model={"encoder": encoder}, verbose=False, **QUICK), output


def test_lists_become_a_model_that_knows_them(trained):
    model, _ = trained
    assert isinstance(model, cxml.Predictor)
    found = model.evaluate(TEXTS, LABELS, ks=(1, 2))
    assert found["P@2"] > 80
    assert found["recall@2"] == pytest.approx(found["P@2"])


def test_labels_that_the_model_does_not_know_count_as_missed(trained):
    model, _ = trained
    known = model.evaluate(TEXTS, LABELS, ks=(2,))["recall@2"]
    assert model.evaluate(TEXTS, [[*own, "unknown"] for own in LABELS], ks=(2,))["recall@2"] == pytest.approx(
        known * 2 / 3
    )


def test_given_fields_win_and_the_rest_is_chosen_and_kept(trained):
    from cxml.config_files import load_config

    config = load_config(f"{trained[1]}/config.yaml")
    assert (config.train.epochs, config.optim.encoder_lr) == (12, 1e-3)
    assert config.model.classifier_start == "centroids"


@pytest.mark.parametrize("keep", ["last", "refit"])
def test_thresholds_and_calibration_are_chosen_on_texts_that_are_held_out(keep, tmp_path, encoder):
    held_out = {"train.keep": keep, "train.validation_fraction": 0.5}
    call = {"output": tmp_path, "model": {"encoder": encoder}, "verbose": False, **QUICK, **held_out}
    model = cxml.train(TEXTS * 2, LABELS * 2, **call)
    best = model.predict(TEXTS, 4)
    least = model.parts.decisions.thresholds["micro-f1"].shared
    found = model.predict(TEXTS, 4, threshold="micro-f1")
    np.testing.assert_array_equal(found.labels >= 0, best.scores >= least)
    assert cxml.Predictor.from_checkpoint(tmp_path, calibrated=True).calibrated
    chosen_at = (tmp_path / "decisions.json").stat().st_mtime_ns
    cxml.train(TEXTS * 2, LABELS * 2, **call)
    assert (tmp_path / "decisions.json").stat().st_mtime_ns == chosen_at


def test_the_same_call_again_finds_its_model_and_other_texts_are_refused(trained, encoder):
    model, output = trained
    again = cxml.train(TEXTS, LABELS, output=output, model={"encoder": encoder}, verbose=False, **QUICK)
    np.testing.assert_array_equal(again.predict(TEXTS[:3]).scores, model.predict(TEXTS[:3]).scores)
    with pytest.raises(CxmlError, match="made from other inputs"):
        cxml.train(TEXTS[1:], LABELS[1:], output=output, model={"encoder": encoder}, verbose=False, **QUICK)


def test_a_script_without_a_main_guard_trains(tmp_path, encoder):
    (tmp_path / "script.py").write_text(
        "import cxml.train\nimport cxml\n"
        f"model = cxml.train({TEXTS!r}, {LABELS!r}, model={{'encoder': {encoder!r}}}, train={{'epochs': 1}})\n"
        "print(len(model.names), callable(cxml.train), cxml.train.main.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "True", "main"]
    assert f"Prepared {len(TEXTS)} train texts, 4 labels" in done.stderr
    assert "test text" not in done.stderr


@pytest.mark.parametrize(
    ("texts", "labels", "expected"),
    [
        (["a", "b"], [["x"], ["y", "z"]], [["x"], ["y", "z"]]),
        (np.array(["a", "b"]), np.array(["x", "y"]), [["x"], ["y"]]),
        (pd.Series(["a", "b"]), pd.Series([["x"], ("y", "z")]), [["x"], ["y", "z"]]),
        (pa.array(["a", "b"]), pa.array([["x"], ["y", "z"]]), [["x"], ["y", "z"]]),
        (pd.DataFrame({"text": ["a", "b"], "labels": [["x"], ["y"]]}), None, [["x"], ["y"]]),
        (pa.table({"text": ["a", "b"], "labels": [["x"], ["y"]]}), None, [["x"], ["y"]]),
        (pd.DataFrame({"essay": ["a", "b"], "tags": ["x", "y"]}), None, [["x"], ["y"]]),
        (pd.DataFrame({"id": [7, 8], "essay": ["a", "b"], "x": [1, 0], "y": [1, 1]}), None, [["x", "y"], ["y"]]),
        (pa.table({"text": ["a", "b"], "x": [True, False], "y": [True, True]}), None, [["x", "y"], ["y"]]),
        (pd.DataFrame({"text": ["a", "b"], "cat1": ["x, z", "y"], "cat2": ["y", None]}), None, [["x, z", "y"], ["y"]]),
        (["a", "b"], pd.Series(["['x', 'y, z']", '["x"]']), [["x", "y, z"], ["x"]]),
        (pd.DataFrame({"": [0, 1], "essay": ["a", "b"], "tags": ["x", "y"]}), None, [["x"], ["y"]]),
        (["a", "b"], ["x, y", "x"], [["x, y"], ["x"]]),
        (("a", "b"), [1, np.int64(2)], [["1"], ["2"]]),
        (["a", "b"], [{"z", "y", "x"}, frozenset({2, 1})], [["x", "y", "z"], ["1", "2"]]),
    ],
)
def test_rows_of_lists_arrays_series_and_tables_have_their_texts_and_label_names(texts, labels, expected):
    found, names = rows_of(texts, labels)
    assert found == ["a", "b"]
    assert [list(own) for own in names] == expected


@pytest.mark.parametrize(
    ("splits", "is_told"), [(["train", "test"], True), (["train", "train"], False), ([1, 2], False)]
)
def test_a_column_of_splits_in_a_table_in_memory_is_told(splits, is_told, caplog):
    rows_of(pd.DataFrame({"text": ["a", "b"], "labels": ["x", "y"], "split": splits}), None)
    assert ("all rows are trained on" in caplog.text) == is_told


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table])
@pytest.mark.parametrize("separator", [", ", ";", " | "])
def test_labels_in_a_string_are_split_in_a_table_in_memory_as_in_a_file(make, separator, caplog):
    labels = [[f"n{i % 4}", f"m{i % 5}"] for i in range(20)]
    table = make({"text": ["a"] * 20, "labels": [separator.join(own) for own in labels]})
    assert rows_of(table, None)[1] == labels
    assert "labels are separated by" in caplog.text
    whole = [f"Arts{separator}Crafts {i % 3}" for i in range(20)]
    assert rows_of(make({"text": ["a"] * 20, "labels": whole}), None)[1] == [[name] for name in whole]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
@pytest.mark.parametrize("make", [pd.DataFrame, pa.table])
def test_titles_and_texts_of_a_table_are_joined(make, missing):
    if make is pa.table:
        missing = None
    table = make({"title": ["a", missing], "abstract": ["b", "c"], "keywords": [["x"], ["y"]]})
    assert rows_of(table, None) == (["a b", "c"], [["x"], ["y"]])


@pytest.mark.parametrize(
    ("texts", "labels", "problem"),
    [
        (["a"], ["x", "y"], r"labels.*1 texts have 2"),
        (["a", 3], ["x", "y"], r"texts\[1\]"),
        (["a", "b"], ["x", []], r"labels\[1\].*Remove texts without labels"),
        (["a"], [3.5], r"labels\[0\].*neither a label nor a list"),
        (["a", "b"], [["x"], ["x", None]], r"labels\[1\].*neither a string nor an integer"),
        (["a"], [["x", float("nan")]], r"labels\[0\].*neither a string nor an integer"),
        (["a"], [[["x"]]], r"labels\[0\].*neither a string nor an integer"),
        (["a"], "x", "labels.*is not a sequence"),
        (["a"], None, "labels.*is missing"),
        ([], [], "texts.*are empty"),
        (["a"], ["[x, y]"], r"labels\[0\].*neither a label nor a list"),
        (pd.DataFrame({"essay": ["a"], "kind": ["x"]}), None, "labels.*ambiguous"),
        (pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "tags"]), None, "texts.*text.*several columns"),
        (pd.DataFrame([["a", "x", "y"]], columns=["text", "labels", "labels"]), None, "labels.*several columns"),
        (pd.DataFrame({"title": [1], "abstract": ["x"], "tags": ["x"]}), None, r"texts\[0\].*'title' is not a string"),
    ],
)
def test_impossible_rows_are_refused_by_their_position(texts, labels, problem):
    with pytest.raises(ConfigError, match=problem):
        rows_of(texts, labels)


def test_evaluations_during_training_need_validation_texts(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.evaluate_every.*trained on all texts.*train\.validation_fraction"):
        _config(TEXTS, LABELS, str(tmp_path / "run"), {"train.evaluate_every": 1, "train.validation_fraction": 0})
    assert not (tmp_path / "run").exists()
    _config(TEXTS, LABELS, str(tmp_path / "run"), {"train.evaluate_every": 1, "train.validation_fraction": 0.2})


def test_impossible_fields_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.epoch .*Did you mean epochs"):
        cxml.train(TEXTS, LABELS, output=tmp_path / "run", train={"epoch": 3})
    assert not (tmp_path / "run").exists()


def test_indicators_have_a_column_for_each_unknown_name():
    found = indicators_of([["b", "new", "b"], ["a"]], ["a", "b"])
    np.testing.assert_array_equal(found.toarray(), [[0, 1, 1], [1, 0, 0]])


def test_a_path_is_read_as_tables(tmp_path, encoder):
    rows = "".join(f"{text},{own[0]}\n" for text, own in zip(TEXTS, LABELS, strict=True))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    model = cxml.train(tmp_path / "rows.csv", model={"encoder": encoder}, train={"epochs": 1}, verbose=False)
    assert sorted(model.names) == ["apples", "pears", "plums"]


@pytest.mark.parametrize(("limit", "workers", "threads"), [("4", 1, 4), ("4", 2, 2), ("1", 2, 1)])
def test_all_processes_together_take_the_threads_that_the_environment_allows(
    tmp_path, monkeypatch, limit, workers, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    fields = {"train.num_workers": workers}
    assert _config(TEXTS, LABELS, str(tmp_path), fields).train.threads_per_worker == threads
    assert (
        _config(TEXTS, LABELS, str(tmp_path), {**fields, "train.threads_per_worker": 3}).train.threads_per_worker == 3
    )
