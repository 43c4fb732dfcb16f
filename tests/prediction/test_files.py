"""Prediction over files: every format, filters, restarts, several processes and Ray Data.

Oracle: `Predictor.predict` on the same texts.
"""

import dataclasses
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from support.ray import own_ray

import cxml
from cxml import artefacts
from cxml.batch_prediction import PredictionJob, predict_file
from cxml.commands import predict
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats import TextSource, read_texts


@pytest.fixture(scope="module")
def texts(lines):
    return lines[:25]


@pytest.fixture(scope="module")
def expected(run, texts):
    return cxml.Predictor.from_checkpoint(run[0].output).predict(texts, k=4)


def write_texts(folder, form, texts):
    """The texts as a file of a form, with keys."""
    table = pa.table({"key": [f"k{i}" for i in range(len(texts))], "body": texts})
    if form == "txt.gz":
        (folder / "texts.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    elif form == "jsonl":
        (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif form == "csv":
        pyarrow.csv.write_csv(table, folder / "texts.csv")
    else:
        pq.write_table(table, folder / "texts.parquet")
    return str(folder / f"texts.{form}")


def read_predictions(folder, form):
    """Labels and scores per row, from the part files in order."""
    found = []
    for part in sorted(folder.glob(f"part-*.{form}")):
        if form == "jsonl":
            for line in part.read_text().splitlines():
                row = json.loads(line)
                found.append(([x["label"] for x in row["labels"]], [x["score"] for x in row["labels"]]))
        elif form == "parquet":
            found += [(row["labels"], row["scores"]) for row in pq.read_table(part).to_pylist()]
        else:
            matrix = sparse.load_npz(part)
            for row in range(matrix.shape[0]):
                order = np.argsort(-matrix[row].data, kind="stable")
                found.append((matrix[row].indices[order].tolist(), matrix[row].data[order].tolist()))
    return found


@pytest.mark.parametrize("form", ["txt.gz", "jsonl", "csv", "parquet"])
def test_every_form_gives_the_same_texts_in_order(tmp_path, texts, form):
    columns = {} if form == "txt.gz" else {"text_column": "body", "id_column": "key"}
    source = TextSource(url=write_texts(tmp_path, form, texts), **columns)
    chunks = list(read_texts(source, 10))
    assert [chunk.first for chunk in chunks] == [0, 10, 20]
    assert [text for chunk in chunks for text in chunk.texts] == texts
    if form != "txt.gz":
        assert chunks[1].keys == [f"k{i}" for i in range(10, 20)]


@pytest.mark.parametrize(("form", "output"), [("jsonl", "parquet"), ("csv", "npz"), ("parquet", "jsonl")])
def test_predictions_of_a_file_are_those_of_the_predictor(run, tmp_path, texts, expected, form, output):
    source = write_texts(tmp_path, form, texts)
    options = ["--format", output, "--k", "4", "--part-rows", "10", "--text-column", "body", "--id-column", "key"]
    assert predict.main([run[0].output, source, "--output", str(tmp_path / "out"), *options]) == 0
    found = read_predictions(tmp_path / "out", output)
    assert len(list((tmp_path / "out").glob("part-*"))) == 3
    assert artefacts.read_json(str(tmp_path / "out/manifest.json"), "")["texts"] == 25
    for row, (labels, scores) in enumerate(found):
        np.testing.assert_allclose(scores, expected.scores[row], atol=1e-5)
        assert set(labels) == set(expected.labels[row].tolist())
    if output == "jsonl":
        first = json.loads((tmp_path / "out/part-00001.jsonl").read_text().splitlines()[0])
        assert (first["row"], first["id"]) == (10, "k10")
        assert first["labels"][0]["name"] == expected.names[expected.labels[10, 0]]


def test_a_stopped_job_goes_on_with_the_parts_that_are_missing(run, tmp_path, texts):
    job = PredictionJob(
        model=run[0].output, source=TextSource(url=write_texts(tmp_path, "txt.gz", texts)),
        output=str(tmp_path / "out"), part_rows=10,
    )  # fmt: skip
    predict_file(job)
    whole = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/part-00001.jsonl").unlink()
    (tmp_path / "out/part-00002.jsonl").write_bytes(b"kept")  # a part that is there is not made again
    assert predict_file(job) == 25
    again = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert again == {**whole, "part-00002.jsonl": b"kept"}


@pytest.mark.parametrize("column", ["--text-column", "--id-column"])
def test_columns_of_a_file_without_columns_are_refused(run, tmp_path, texts, column, capsys):
    source = write_texts(tmp_path, "txt.gz", texts[:3])
    assert predict.main([run[0].output, source, column, "body"]) == 2
    assert f"ConfigError: {column} = 'body': a file with one text per line has no columns" in capsys.readouterr().err


def test_a_job_that_stopped_at_a_broken_row_starts_again_with_the_corrected_file(run, tmp_path):
    source, output = tmp_path / "texts.txt", tmp_path / "out"
    source.write_bytes(b"fine\n\xff\n")
    job = PredictionJob(model=run[0].output, source=TextSource(url=str(source)), output=str(output), part_rows=10)
    with pytest.raises(DataError, match="line 2"):
        predict_file(job)
    source.write_bytes(b"fine\ncorrected\n")
    assert predict_file(job) == 2


def test_an_output_without_a_name_is_refused(run, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a text")
    assert predict.main([run[0].output, str(tmp_path / "texts.txt"), "--output", ""]) == 2
    assert "ConfigError: --output = '': is empty" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["k", "texts", "filter"])
def test_predictions_of_another_job_are_refused(run, tmp_path, texts, changed):
    source = TextSource(url=write_texts(tmp_path, "txt.gz", texts[:3]))
    (tmp_path / "filter.txt").write_text("0 1\n")
    job = PredictionJob(
        model=run[0].output, source=source, output=str(tmp_path / "out"), excluded=str(tmp_path / "filter.txt")
    )
    predict_file(job)
    assert predict_file(job) == 3
    if changed == "k":
        job = dataclasses.replace(job, k=3)
    elif changed == "texts":
        write_texts(tmp_path, "txt.gz", texts[:4])
    else:
        (tmp_path / "filter.txt").write_text("0 2\n")
    with pytest.raises(StaleArtefactError, match="another model, input or setting"):
        predict_file(job)


def test_an_output_folder_with_something_else_is_refused(run, tmp_path, texts):
    source = TextSource(url=write_texts(tmp_path, "txt.gz", texts[:3]))
    with pytest.raises(DataError, match="other content"):
        predict_file(PredictionJob(model=run[0].output, source=source, output=str(tmp_path)))


def test_standard_input_is_answered_line_by_line(run, texts, expected, monkeypatch, capfdbinary):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts[:3]).encode())))
    assert predict.main([run[0].output, "-", "--k", "2", "--explain"]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [row["labels"][0]["label"] for row in rows] == expected.labels[:3, 0].tolist()
    assert [node["level"] for node in rows[0]["labels"][0]["path"]] == [0, 1]


def test_filters_hold_over_parts(run, tmp_path, texts, expected):
    forbidden = [(row, int(expected.labels[row, 0])) for row in range(0, 25, 2)]
    (tmp_path / "filter.txt").write_text("".join(f"{row} {label}\n" for row, label in reversed(forbidden)))
    allowed = sorted({expected.names[label] for label in expected.labels[:, :2].ravel()})
    (tmp_path / "allowed.txt").write_text("\n".join(allowed))
    job = PredictionJob(
        model=run[0].output, source=TextSource(url=write_texts(tmp_path, "txt.gz", texts)), k=3, part_rows=10,
        output=str(tmp_path / "out"), allowed=str(tmp_path / "allowed.txt"), excluded=str(tmp_path / "filter.txt"),
    )  # fmt: skip
    predict_file(job)
    found = read_predictions(tmp_path / "out", "jsonl")
    ids = {expected.names.index(name) for name in allowed}
    for row, (labels, _) in enumerate(found):
        assert labels
        assert set(labels) <= ids
        assert (row, labels[0]) not in forbidden
        if row % 2:
            assert labels[0] == expected.labels[row, 0]


def test_processes_that_share_the_label_rows_predict_the_same(run, tmp_path, texts, expected):
    source = TextSource(url=write_texts(tmp_path, "txt.gz", texts))
    job = PredictionJob(model=run[0].output, source=source, output=str(tmp_path / "out"), k=4, part_rows=9)
    assert predict_file(job, processes=2) == 25
    found = read_predictions(tmp_path / "out", "jsonl")
    np.testing.assert_allclose([scores for _, scores in found], expected.scores, atol=1e-5)


def test_ray_data_predicts_the_same_and_goes_on_where_it_was(run, tmp_path, texts, expected):
    source = TextSource(url=write_texts(tmp_path, "txt.gz", texts))
    job = PredictionJob(model=run[0].output, source=source, output=str(tmp_path / "out"), k=4, part_rows=9)
    with own_ray(object_store_memory=80 << 20):
        assert predict_file(job, on_ray=True, ray_workers=1) == 25
        (tmp_path / "out/part-00001.jsonl").unlink()
        assert predict_file(job, on_ray=True, ray_workers=1) == 25
    found = read_predictions(tmp_path / "out", "jsonl")
    np.testing.assert_allclose([scores for _, scores in found], expected.scores, atol=1e-5)


@pytest.mark.parametrize("missing", ["texts", "--allowed", "--excluded", "model"])
@pytest.mark.parametrize("output", ["out", "-"])
def test_what_is_missing_is_named(run, tmp_path, capsys, missing, output):
    (tmp_path / "texts.txt").write_text("a text")
    nowhere = str(tmp_path / "nowhere.txt")
    model = nowhere if missing == "model" else run[0].output
    texts = nowhere if missing == "texts" else str(tmp_path / "texts.txt")
    more = [missing, nowhere] if missing.startswith("--") else []
    where = str(tmp_path / "out") if output == "out" else "-"
    assert predict.main([model, texts, "--output", where, *more]) == 2
    problem = "contains no trained model" if missing == "model" else "does not exist"
    assert f"DataError: {nowhere}: {problem}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"no": 1}\n', r"line 2: no text in 'text'.*--text-column"),
        ("a.jsonl", b'{"text"\n', r"line 1: not valid JSON"),
        ("a.csv", b"essay,x\ny,z\n", r"line 1: has no column 'text', only essay, x\. Set another .*--text-column"),
        ("a.csv", b"text,b\nx\n", r"line 2: the number of columns differs"),
        ("a.txt", b"fine\n\xff\n", r"line 2: not valid UTF-8"),
        ("a.parquet", b"PAR1", r"cannot be read as a Parquet file"),
    ],
)
def test_broken_input_is_named_with_its_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(read_texts(TextSource(url=str(tmp_path / name)), 10))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "title;abstract\none;two\n", "one two"),
        ("a.tsv", "title\tabstract\none\ttwo\n", "one two"),
        ("a.json", '[{"name": "one", "description": "two"}]', "one two"),
        ("a.ndjson", '{"body": "one", "headline": null}', "one"),
        ("a.csv", "essay\none\n", "one"),
        ("a.csv", "text,title\none,two\n", "one"),
        ("a.csv", ",essay\n0,one\n", "one"),
        ("a.csv", "utterance,label\none,two\n", "one"),
        ("a.csv", " title , abstract ,id\none,two,3\n", "one two"),
        ("a.csv", "sep=;\ntext;id\none;two\n", "one"),
        ("a.tsv", "text,id\none,two\n", "one"),
        ("A.CSV", "text\none\n", "one"),
        ("a.jsonl", '{"abstract": "one"}\n', "one"),
    ],
)
def test_columns_of_texts_are_found_as_in_training(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    (chunk,) = read_texts(TextSource(url=str(tmp_path / name)), 10)
    assert chunk.texts == [expected]


def test_a_line_above_the_names_of_columns_is_not_read_as_the_name_of_the_only_one(tmp_path):
    (tmp_path / "a.csv").write_text("My export,,\nid,text,labels\n1,one,x\n")
    with pytest.raises(DataError, match=r"line 1: has no column 'text', only My export"):
        list(read_texts(TextSource(url=str(tmp_path / "a.csv")), 10))


def test_rows_of_json_can_have_other_keys_than_the_first(tmp_path):
    rows = [{"title": "one"}, {"title": "two", "abstract": "three"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chunk,) = read_texts(TextSource(url=str(tmp_path / "a.jsonl")), 10)
    assert chunk.texts == ["one", "two three"]


@pytest.mark.parametrize("form", ["json", "parquet", "arrow"])
def test_forms_that_are_read_twice_are_not_read_from_standard_input(form):
    with pytest.raises(ConfigError, match="cannot be read from standard input"):
        list(read_texts(TextSource(url="-", form=form), 10))


def test_an_unknown_form_is_refused(tmp_path):
    (tmp_path / "texts.dat").write_text("x")
    with pytest.raises(ConfigError, match="the form is unknown"):
        list(read_texts(TextSource(url=str(tmp_path / "texts.dat")), 10))
