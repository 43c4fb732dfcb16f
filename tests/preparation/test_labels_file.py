"""The labels file: titles of labels by their names in the texts, in any form, found or named, refused with its line."""

import csv
import gzip
import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.config import SourceConfig
from cxml.console import log_once
from cxml.errors import ConfigError, DataError
from cxml.formats import open_source, read_source, source_facts
from cxml.formats.labels_file import read_labels_file

ENTRIES = {"10": ("boat", "It floats."), "9": ("barge", ""), "x-1": ("Ünits, of measure", 'Says "metre".')}
ROWS = [(f"text {i}", ["10", "9"] if i % 2 else ["9", "x-1"]) for i in range(6)]


@pytest.fixture(autouse=True)
def fresh_warnings():
    log_once.cache_clear()


def write_rows(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    for split, some in (("train", rows[:4]), ("test", rows[4:])):
        lines = (json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in some)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def delimited(rows, delimiter):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return file.getvalue()


def write_labels(path, entries, columns=("id", "name", "description")):
    """A labels file of the form that `path` is called after, written by the library of that form."""
    rows = [(name, *entry)[: len(columns)] for name, entry in entries.items()]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    else:
        text = delimited([columns, *rows], "\t" if ".tsv" in path.name else ",").encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def source(folder, kind="table", **fields):
    return SourceConfig(kind=kind, path=str(folder), **fields)


def titles_of(raw):
    """Title and description of each label, by name."""
    return dict(zip(raw.label_names, zip(raw.titles.titles, raw.titles.descriptions, strict=True), strict=True))


FILES = ["labels.tsv", "labels.csv", "label_names.csv.gz", "label_names.jsonl", "labels.parquet"]


@pytest.mark.parametrize("kind", ["table", "jsonl"])
@pytest.mark.parametrize("name", FILES)
def test_a_labels_file_of_any_form_in_the_folder_gives_titles_and_is_no_table(tmp_path, name, kind):
    write_labels(write_rows(tmp_path) / name, ENTRIES)
    raw = read_source(source(tmp_path, kind))
    assert raw.label_names == ["9", "10", "x-1"]  # as without the file
    assert titles_of(raw) == ENTRIES
    assert [len(raw.splits[split].texts) for split in ("train", "test")] == [4, 2]


def test_without_files_called_after_splits_a_labels_file_is_still_no_table(tmp_path):
    lines = (json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in ROWS)
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    write_labels(tmp_path / "labels.jsonl", ENTRIES)
    raw = read_source(source(tmp_path, test_fraction=0.3))
    assert sum(len(split.texts) for split in raw.splits.values()) == len(ROWS)
    assert titles_of(raw) == ENTRIES


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_named_labels_file_is_used_wherever_it_lies_and_an_empty_one_switches_titles_off(
    tmp_path, monkeypatch, is_relative
):
    write_labels(write_rows(tmp_path / "rows") / "terms.csv", ENTRIES)
    monkeypatch.chdir(tmp_path)
    named = "rows/terms.csv" if is_relative else str(tmp_path / "rows" / "terms.csv")
    assert titles_of(read_source(source(tmp_path / "rows", labels_file=named))) == ENTRIES
    write_labels(tmp_path / "rows" / "labels.csv", ENTRIES)
    assert read_source(source(tmp_path / "rows", "jsonl", labels_file="")).titles is None


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.dictionaries(words.map(lambda text: " ".join(text.split())), st.tuples(words, words | st.just("")),
                            min_size=1, max_size=6),
    name=st.sampled_from(["labels.tsv", "labels.csv", "labels.jsonl", "labels.parquet"]),
)  # fmt: skip
def test_what_another_library_wrote_is_read_with_blanks_made_one(tmp_path_factory, entries, name):
    file = write_labels(tmp_path_factory.mktemp("labels") / name, entries)
    found = read_labels_file(str(file))
    expected = {id_: tuple(" ".join(text.split()) for text in texts) for id_, texts in entries.items()}
    assert {id_: (entry.title, entry.description) for id_, entry in found.items()} == expected
    assert list(found) == list(entries)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=2, max_size=6),
    listed=st.permutations("abcdefgh").flatmap(lambda order: st.integers(1, 8).map(lambda n: order[:n])),
    unseen=st.booleans(),
)
def test_labels_are_those_of_the_texts_and_with_unseen_labels_those_of_the_file_too(
    tmp_path_factory, rows, listed, unseen
):
    texts = [(f"text {i}", sorted(labels)) for i, labels in enumerate(rows)]
    folder = tmp_path_factory.mktemp("rows")
    for split in ("train", "test"):
        lines = (json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in texts)
        (folder / f"{split}.jsonl").write_text("".join(lines))
    write_labels(folder / "labels.tsv", {name: (f"title of {name}", "") for name in listed})
    of_texts = sorted(set().union(*rows))
    asked = source(folder, "jsonl", unseen_labels=unseen)
    if not set(of_texts) & set(listed):
        if unseen:
            with pytest.raises(DataError, match=r"labels\.tsv: has none of the labels of the texts"):
                read_source(asked)
        else:
            assert read_source(asked).titles is None
        return
    raw = read_source(asked)
    extra = [name for name in listed if name not in of_texts] if unseen else []
    assert raw.label_names == of_texts + extra
    assert raw.titles is not None
    assert raw.titles.titles == [f"title of {name}" if name in listed else name for name in raw.label_names]
    for text_labels, row in zip(raw.splits["train"].labels.toarray(), texts, strict=True):
        assert [raw.label_names[label] for label in np.flatnonzero(text_labels)] == row[1]


def test_labels_that_the_file_lacks_are_counted_and_keep_their_ids(tmp_path, caplog):
    write_labels(write_rows(tmp_path) / "labels.csv", {"9": ("barge", "")})
    with caplog.at_level(logging.INFO):
        raw = read_source(source(tmp_path))
    assert titles_of(raw) == {"9": ("barge", ""), "10": ("10", ""), "x-1": ("x-1", "")}
    assert "labels.csv lacks 2 of 3 labels, such as '10'; their ids are used as titles" in caplog.text


def test_the_log_names_the_columns_and_the_labels_that_no_text_has(tmp_path, caplog):
    write_labels(write_rows(tmp_path) / "labels.csv", {**ENTRIES, "new": ("raft", "")}, ("Code", "Label", "Definition"))
    with caplog.at_level(logging.INFO):
        read_source(source(tmp_path))
    assert "ids are in the column 'Code', titles in 'Label', descriptions in 'Definition'" in caplog.text
    assert "labels without a text are left out: 1 of 4; set data.source.unseen_labels to add them" in caplog.text


@pytest.mark.parametrize("columns", [
    ("id", "name"), ("label_id", "title"), ("label", "name"), ("id", "label"), ("concept", "name"),
    ("code", "description"), ("Label ID", "Label Name"), ("key", "term"),
])  # fmt: skip
def test_columns_with_usual_names_are_found(tmp_path, columns):
    file = write_labels(tmp_path / "labels.tsv", ENTRIES, columns)
    assert {name: entry.title for name, entry in read_labels_file(str(file)).items()} == {
        name: entry[0] for name, entry in ENTRIES.items()
    }


@pytest.mark.parametrize("width", [2, 3])
def test_a_file_without_column_names_has_them_in_order(tmp_path, width, caplog):
    caplog.set_level(logging.INFO)
    rows = [(name, *entry)[:width] for name, entry in ENTRIES.items()]
    (tmp_path / "labels.tsv").write_text(delimited(rows, "\t"), encoding="utf-8")
    found = read_labels_file(str(tmp_path / "labels.tsv"))
    assert f"so they are {', '.join(('id', 'name', 'description')[:width])}" in caplog.text
    expected = {name: (title, text if width == 3 else "") for name, (title, text) in ENTRIES.items()}
    assert {name: (entry.title, entry.description) for name, entry in found.items()} == expected


@pytest.mark.parametrize("columns", [("text", "labels"), ("id", "name", "title"), ("label", "meaning"), ("a",)])
def test_unclear_columns_are_refused_in_a_named_file_and_warned_about_in_a_found_one(tmp_path, caplog, columns):
    file = write_rows(tmp_path) / "labels.csv"
    file.write_text(delimited([columns, *[["9", "one", "two"][: len(columns)]]], ","))
    raw = read_source(source(tmp_path, "jsonl"))
    assert raw.titles is None
    assert "the columns of ids and titles are ambiguous. Name its columns id, name" in caplog.text
    with pytest.raises(DataError, match="the columns of ids and titles are ambiguous"):
        read_source(source(tmp_path, "jsonl", labels_file=str(file)))


@pytest.mark.parametrize(("text", "line", "problem"), [
    ("id,name\n9,barge\n9,boat\n", 3, "the id of line 2 again: '9'"),
    ("id,name\n9,barge\n,boat\n", 3, "no id in 'id'"),
    ("id,name\n9, \n", 2, "no title in 'name' for '9'"),
    ("id,name\n9,barge,boat\n", 2, "the number of columns differs"),
    ("id,name\n9,barge\n10,\xff\n", 3, "not valid UTF-8"),
])  # fmt: skip
def test_a_broken_row_is_refused_by_file_and_line(tmp_path, text, line, problem):
    (write_rows(tmp_path) / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=problem) as refused:
        read_source(source(tmp_path))
    assert refused.value.line == line
    assert refused.value.file.endswith("labels.csv")
    assert refused.value.remedy


def test_several_files_a_missing_one_and_an_unknown_form_are_refused(tmp_path):
    write_rows(tmp_path)
    for name in ("labels.csv", "label_names.tsv"):
        write_labels(tmp_path / name, ENTRIES)
    with pytest.raises(DataError, match=r"several labels files: label_names\.tsv, labels\.csv.*data\.source\.labels"):
        read_source(source(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        read_source(source(tmp_path, labels_file=str(tmp_path / "none.csv")))
    (tmp_path / "labels.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match="unknown file extension"):
        read_source(source(tmp_path, labels_file=str(tmp_path / "labels.xlsx")))
    with pytest.raises(ConfigError, match="labels_file"):
        SourceConfig(kind="icd10cm", labels_file="labels.csv")


def test_labels_that_another_file_lists_get_titles_but_no_company(tmp_path):
    """The columns of a matrix are labels 0, 1, ... or named by Y.txt; labels.txt lists those of other kinds."""
    for split, short in (("train", "trn"), ("test", "tst")):
        (tmp_path / f"{split}_raw_texts.txt").write_text("one\ntwo\n")
        sparse.save_npz(tmp_path / f"Y.{short}.npz", sparse.csr_matrix(np.eye(2, dtype=np.float32)))
    write_labels(tmp_path / "labels.csv", {"1": ("boat", ""), "0": ("barge", ""), "2": ("raft", "")})
    raw = read_source(source(tmp_path, "xmc"))
    assert raw.label_names == ["0", "1"]
    assert titles_of(raw) == {"0": ("barge", ""), "1": ("boat", "")}
    with pytest.raises(ConfigError, match="another file lists the labels"):
        read_source(source(tmp_path, "xmc", unseen_labels=True))

    listed = write_rows(tmp_path / "rows")
    (listed / "labels.txt").write_text("9\n10\nx-1\nspare\n")
    write_labels(listed / "labels.csv", ENTRIES)
    raw = read_source(source(listed, "jsonl"))
    assert titles_of(raw) == {**ENTRIES, "spare": ("spare", "")}
    with pytest.raises(ConfigError, match="another file lists the labels"):
        read_source(source(listed, "jsonl", unseen_labels=True))


def test_unseen_labels_need_a_labels_file(tmp_path):
    with pytest.raises(ConfigError, match="needs a labels file"):
        source(tmp_path, labels_file="", unseen_labels=True)
    with pytest.raises(ConfigError, match="there is no labels file in"):
        read_source(source(write_rows(tmp_path), unseen_labels=True))


def test_a_table_that_is_one_file_has_no_labels_file_beside_it(tmp_path):
    lines = (json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in ROWS)
    (tmp_path / "labels.jsonl").write_text("".join(lines))  # the texts themselves, for all that it is called
    assert read_source(source(tmp_path / "labels.jsonl")).titles is None


def test_the_content_of_the_labels_file_identifies_the_source_and_its_place_does_not(tmp_path):
    write_rows(tmp_path / "rows")
    without = source_facts(source(tmp_path / "rows", "jsonl"))
    file = write_labels(tmp_path / "rows" / "labels.csv", ENTRIES)
    found = source_facts(source(tmp_path / "rows", "jsonl"))
    elsewhere = file.rename(tmp_path / "terms.csv")
    assert source_facts(source(tmp_path / "rows", "jsonl", labels_file=str(elsewhere))) == found
    assert {**found, "labels_file": None} == {**without, "labels_file": None}
    assert found["labels_file"]["bytes"] == elsewhere.stat().st_size
    assert open_source(source(tmp_path / "rows", "jsonl")).label_titles() is None
