"""`cxml.evaluate` on a real run: intervals, other systems, ensembles, and label rows of fewer bytes.

Oracles: the run's own report, metrics of dense NumPy rankings, and a loop over texts and labels.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

import cxml
from cxml.checkpoint import list_checkpoints
from cxml.commands import evaluate
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.data import ShardedDataset, collate
from cxml.errors import DataError
from cxml.metrics import metric_sums, top_labels
from cxml.parallel import run_workers
from cxml.prediction import read_scores, write_scores
from cxml.training.evaluate_job import Variant, predict_test


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory):
    """The figures that the command left, next to what other systems scored."""
    config, report = run
    folder = tmp_path_factory.mktemp("compared")
    file = folder / "config.yaml"
    file.write_text(dump_config(config_to_dict(config)))
    test = ShardedDataset(f"{config.output}/data", "test")
    other = sparse.csr_matrix(test.labels_csr() * 0.5)  # a system that knows all
    other.data[::3] = 0.0
    other.eliminate_zeros()
    sparse.save_npz(folder / "other.npz", other)
    (folder / "other.txt").write_text(xmc_text(other))
    cxml.Predictor.from_checkpoint(config.output).save_pretrained(str(folder / "exported"), rows="bf16")
    exported, npz, text = folder / "exported", folder / "other.npz", folder / "other.txt"
    arguments = ["--rows", "int8", "--models", f"exported={exported}", "--predictions", f"npz={npz}", f"text={text}"]
    assert evaluate.main(["--config", str(file), *arguments, "--ensemble", "--resamples", "50"]) == 0
    return config, report, json.loads((Path(config.output) / "comparison.json").read_text()), other, test


def xmc_text(scores):
    rows = (
        " ".join(f"{label}:{score!r}" for label, score in zip(row.indices.tolist(), row.data.tolist(), strict=True))
        for row in scores
    )
    return f"{scores.shape[0]} {scores.shape[1]}\n" + "".join(row + "\n" for row in rows)


def test_the_runs_own_column_is_its_report(compared):
    _, report, found, _, _ = compared
    own = found["systems"]["CascadeXML"]
    assert own["metrics"] == pytest.approx(report["levels"][-1], abs=1e-9)
    for name, (low, high) in own["intervals"].items():
        assert low <= own["metrics"][name] <= high


def test_processes_that_share_the_label_rows_score_the_same(compared, tmp_path):
    config, _, _, other, test = compared
    for url in (config.output, list_checkpoints(f"{config.output}/checkpoints")[0].url):
        file = str(tmp_path / "scores.npz")
        run_workers(predict_test, (config, url, file, Variant()), 2)
        found, expected = (
            read_scores(each, len(test), other.shape[1]) for each in (file, f"{config.output}/predictions.npz")
        )
        np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)


def test_smaller_label_rows_show_what_they_cost(compared):
    config, report, found, _, test = compared
    packed = cxml.Predictor.from_checkpoint(config.output, rows="int8")
    predicted = packed.predict_tokens(test.gather(np.arange(len(test)))[0], 5).labels
    expected = metric_sums(predicted, test.labels_csr(), (1, 3, 5)).result()
    int8 = found["systems"]["CascadeXML, int8"]
    assert {name: int8["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-9)
    difference, low, high = int8["differences"]["P@5"]
    assert difference == pytest.approx(int8["metrics"]["P@5"] - report["levels"][-1]["P@5"])
    assert low <= high


def test_files_of_other_systems_count_alike_in_either_form(compared):
    _, _, found, other, test = compared
    expected = metric_sums(top_labels(other, 5), test.labels_csr(), (1, 3, 5)).result()
    for name in ("npz", "text"):
        metrics = found["systems"][name]["metrics"]
        assert {metric: metrics[metric] for metric in expected} == pytest.approx(expected)


def test_the_ensemble_ranks_by_the_mean_of_all(compared):
    config, _, found, other, test = compared
    own, exported = (
        read_scores(f"{config.output}/{name}", len(test), other.shape[1])
        for name in ("predictions.npz", "comparison/001.npz")
    )
    mean = (own.toarray() + exported.toarray() + 2 * other.toarray()) / 4
    order = np.argsort(-mean, axis=1, kind="stable")[:, :5]
    expected = metric_sums(order, test.labels_csr(), (1, 3, 5)).result()
    metrics = found["systems"]["ensemble"]["metrics"]
    assert metrics["P@1"] == pytest.approx(expected["P@1"])


def test_groups_by_frequency_add_up_to_the_run(compared):
    _, report, found, _, _ = compared
    groups = found["by_frequency"]["groups"]
    assert len(groups) == 10
    assert sum(group["precision"] for group in groups) == pytest.approx(report["levels"][-1]["P@5"])
    assert sum(group["psp"] for group in groups) == pytest.approx(report["levels"][-1]["PSP@5"])


def test_calibration_counts_every_predicted_label(compared):
    _, _, found, _, test = compared
    assert sum(each["count"] for each in found["calibration"]["bins"]) == 5 * len(test)
    assert 0 <= found["calibration"]["error"] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "nameless"], "is not NAME=PLACE"),
        (["--ensemble"], "there is only one system"),
        (["--resamples", "1"], "too few"),
        (["--models", "a=x", "--predictions", "a=y"], "given twice"),
    ],
)
def test_impossible_comparisons_are_refused_before_any_work(run, tmp_path, capsys, arguments, words):
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(run[0])))
    assert evaluate.main(["--config", str(file), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "nothing", "line 1: does not start"),
        ("a.txt", "2 3\n0:1\n0:x\n", "line 3: is not a row"),
        ("a.txt", "2 3\n0:1\n", "does not contain 2 texts"),
        ("a.txt", "2 3\n0:1\n3:1\n", "does not contain 2 texts"),
        ("a.txt", "1 3\n0:1\n", "not 2 and 3"),
        ("a.txt", "2 99999999999999999999\n0:1\n\n", "line 1: does not start"),
        ("a.txt", "2 3\n0:nan\n\n", "not finite numbers"),
        ("a.npz", "no zip", "cannot be read as a SciPy sparse matrix"),
    ],
)
def test_broken_score_files_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_scores(str(tmp_path / name), 2, 3)


def test_scores_come_back_as_they_were_written(tmp_path):
    labels, scores = np.array([[2, 0], [1, -1]]), np.array([[0.9, 0.25], [0.5, 0]], np.float32)
    write_scores(str(tmp_path / "a.npz"), labels, scores, 3)
    found = read_scores(str(tmp_path / "a.npz"), 2, 3)
    np.testing.assert_array_equal(top_labels(found, 2), labels)
    np.testing.assert_array_equal(found.toarray(), np.array([[0.25, 0, 0.9], [0, 0.5, 0]], np.float32))


def test_the_order_of_equal_scores_survives_the_file(tmp_path):
    labels = np.array([[3, 0, 2, 1], [1, 3, 0, -1]])
    scores = np.array([[1, 1, 1, 0.5], [1, np.nextafter(np.float32(1), np.float32(0)), 1, 0]], np.float32)
    write_scores(str(tmp_path / "a.npz"), labels, scores, 4)
    found = read_scores(str(tmp_path / "a.npz"), 2, 4)
    np.testing.assert_array_equal(top_labels(found, 4), labels)
    np.testing.assert_allclose(found[0].toarray(), [[1, 0.5, 1, 1]], atol=1e-6)


def test_cluster_recall_is_the_share_of_true_labels_below_what_a_level_hands_down(run):
    """Text by text and label by label, from the model itself."""
    config, report = run
    dataset = ShardedDataset(f"{config.output}/data", "test")
    predictor = cxml.Predictor.from_checkpoint(config.output)
    tree, model = predictor.parts.tree, predictor.model
    found, num_true = np.zeros(len(tree.offsets)), 0
    for row in range(len(dataset)):
        tokens, labels = dataset.gather(np.array([row]))
        batch = collate(tokens, labels, pad_id=predictor.parts.pad_id, global_size=1)
        with torch.inference_mode():
            levels = model(batch, predict_k=1)
        for label in labels.values.tolist():
            num_true += 1
            for level in range(len(found)):
                found[level] += tree.cluster_of_label(level)[label] in levels[level].selected[0].tolist()
    assert [level["cluster_recall"] for level in report["levels"][:-1]] == pytest.approx(
        (100 * found / num_true).tolist()
    )
    assert 0 < found[-1] < num_true
    assert "cluster_recall" not in report["levels"][-1]


def test_the_page_of_a_run_shows_what_its_comparison_found(compared):
    page = Path(compared[0].output, "report.html").read_text()
    for part in ("±", "ensemble", "exported", "Recall@", "Loss per level"):
        assert part in page


def test_cut_offs_may_be_above_the_widths_of_shortlists_and_the_number_of_labels(run, tmp_path):
    config, report = run
    shutil.copytree(config.output, tmp_path / "out")
    copied = dataclasses.replace(config, output=str(tmp_path / "out"))
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(copied)))
    words = ["--config", str(file), "--evaluate.top-k", "1", "40", "100000000", "--rows", "int8", "--resamples", "3"]
    assert evaluate.main(words) == 0
    levels = json.loads((tmp_path / "out/report.json").read_text())["levels"]
    for level, before in zip(levels, report["levels"], strict=True):
        assert level["P@1"] == pytest.approx(before["P@1"])
        assert level["recall@1"] <= level["recall@40"] <= level["recall@100000000"] <= 100
    found = json.loads((tmp_path / "out/comparison.json").read_text())["systems"]["CascadeXML"]["metrics"]
    assert found == pytest.approx({name: levels[-1][name] for name in found})
