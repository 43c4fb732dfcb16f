"""Predictions of a model whose labels have titles show name and title; those of others are as they were."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.runs import make_encoder
from support.untrained import untrained_parts

from cxml.batch_prediction.outputs import jsonl, parquet
from cxml.commands import predict, similar
from cxml.config import SourceConfig
from cxml.formats import TextChunk
from cxml.prediction import NamedLabel, Predictor
from cxml.prediction.export import without_paths
from cxml.serving.batching import PredictRequest, answer_together
from cxml.tree import LabelTree, plan_splits

NAMES = [str(1000 + i) for i in range(10)]
TITLES = [f"concept {i}" for i in range(9)] + [NAMES[9]]
TEXTS = ["a boat", "a longer text about boats"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("titles")
    tree = LabelTree(np.arange(10, dtype=np.int32), plan_splits(10, (4,)).offsets)
    found = untrained_parts(folder / "run", make_encoder(folder / "encoder"), tree, NAMES, shortlist_sizes=(2,))
    return dataclasses.replace(found, titles=TITLES)


@pytest.fixture(scope="module")
def exported(parts, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("exported") / "model")
    Predictor(parts, device="cpu").save_pretrained(folder)
    return folder


def test_a_predicted_label_has_its_id_name_and_title(parts):
    best = Predictor(parts, device="cpu").predict(TEXTS, 3)[0]
    assert [(label.name, label.title) for label in best] == [(NAMES[i.label], TITLES[i.label]) for i in best]


def test_an_exported_model_keeps_titles_also_of_some_of_its_labels_which_are_chosen_by_name(exported, tmp_path):
    loaded = Predictor.from_pretrained(exported)
    assert (loaded.names, loaded.titles) == (NAMES, TITLES)
    some = loaded.restricted_to(["1003", "1007"])
    assert {label.title for label in some.predict(TEXTS, 5)[0]} == {"concept 3", "concept 7"}
    some.save_pretrained(tmp_path / "some")
    assert Predictor.from_pretrained(tmp_path / "some").titles == ["concept 3", "concept 7"]


def test_an_exported_config_names_the_labels_file_without_its_place(parts):
    source = SourceConfig(kind="csv", path="/home/me/rows", labels_file="s3://bucket/mine/terms.csv")
    config = dataclasses.replace(parts.config, data=dataclasses.replace(parts.config.data, source=source))
    found = without_paths(config).data.source
    assert (found.path, found.labels_file) == ("rows", "terms.csv")


def test_written_predictions_have_titles_beside_names(parts):
    predictor = Predictor(parts, device="cpu")
    chunk, found = TextChunk(0, TEXTS, None), predictor.predict(TEXTS, 3)
    for line, explained in (
        (jsonl(chunk, found, None), False),
        (jsonl(chunk, found, predictor.explain(TEXTS, 3)), True),
    ):
        for row, text in enumerate(line.decode().splitlines()):
            labels = json.loads(text)["labels"]
            expected = [(NAMES[label], TITLES[label]) for label in found.labels[row].tolist()]
            assert [(label["name"], label["title"]) for label in labels] == expected
            assert all(("path" in label) == explained for label in labels)


def test_a_parquet_part_has_a_list_of_titles(parts, tmp_path):
    found = Predictor(parts, device="cpu").predict(TEXTS, 3)
    (tmp_path / "part.parquet").write_bytes(parquet(TextChunk(0, TEXTS, None), found, None))
    table = pq.read_table(tmp_path / "part.parquet").to_pydict()
    assert table["titles"] == [[TITLES[label] for label in row] for row in found.labels.tolist()]
    assert table["names"] == [[NAMES[label] for label in row] for row in found.labels.tolist()]


def test_an_answer_of_the_server_has_titles(parts):
    (answer,) = answer_together(Predictor(parts, device="cpu"), [PredictRequest(TEXTS, 2, True, None)])
    assert isinstance(answer, bytes)
    for label in json.loads(answer)["predictions"][0]:
        assert TITLES[NAMES.index(label["name"])] == label["title"]


def test_nothing_changes_for_a_model_without_titles(parts):
    predictor = Predictor(dataclasses.replace(parts, titles=None), device="cpu")
    found = predictor.predict(TEXTS, 2)
    assert found[0][0] == NamedLabel(found[0][0].label, found[0][0].name, found[0][0].score)
    chunk = TextChunk(0, TEXTS, None)
    assert json.loads(jsonl(chunk, found, None).splitlines()[0])["labels"][0].keys() == {"label", "name", "score"}
    answers = answer_together(predictor, [PredictRequest(TEXTS, 2, False, None)])
    assert b"title" not in b"".join(answers)  # pyright: ignore[reportArgumentType]


def test_commands_print_names_with_titles(exported, capsys, tmp_path):
    (tmp_path / "texts.txt").write_text("a boat\n")
    assert predict.main([exported, str(tmp_path / "texts.txt"), "--output", str(tmp_path / "out")]) == 0
    (label, *_) = json.loads((tmp_path / "out" / "part-00000.jsonl").read_text())["labels"]
    assert TITLES[NAMES.index(label["name"])] == label["title"]
    pytest.importorskip("faiss")
    assert similar.main([exported, "--label", "1003", "--k", "2"]) == 0
    for line in capsys.readouterr().out.splitlines():
        name, _, title = line.split("\t")[1].partition(" ")
        assert (title or name) == TITLES[NAMES.index(name)]
    assert similar.main([exported, "--label", "concept 3", "--k", "2"]) == 2
    assert "Did you mean '1003'?" in capsys.readouterr().err


def test_a_folder_for_onnxruntime_has_titles_and_its_example_prints_them(parts, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    Predictor(parts, device="cpu").save_onnx(tmp_path / "onnx")
    assert json.loads((tmp_path / "onnx" / "titles.json").read_text()) == TITLES
    assert json.loads((tmp_path / "onnx" / "labels.json").read_text()) == NAMES
    lines = subprocess.run(
        [sys.executable, tmp_path / "onnx" / "predict.py", "a boat"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in filter(None, lines):
        _, name, *title = line.split(" ", 2)
        assert (title[0] if title else name) == TITLES[NAMES.index(name)]
