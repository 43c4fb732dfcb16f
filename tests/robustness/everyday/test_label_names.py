"""Label names are read unchanged; what cannot be a name is refused with its line, or warned about.

Oracle: the names that were written, in every raw format.
"""

import csv
import io
import json
import logging
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxml import artefacts, storage
from cxml.config import SourceConfig, config_from_dict
from cxml.data import read_label_table
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats import parse_list, read_source
from cxml.preparation import is_prepared, prepare

KINDS = ("jsonl", "csv", "parquet")


def write(folder, kind, cells):
    """The same cells of labels as train and test split, in rows with texts `text 0`, `text 1`, ..."""
    rows = [{"text": f"text {i}", "labels": cell} for i, cell in enumerate(cells)]
    for split in ("train", "test"):
        file = folder / f"{split}.{kind}"
        if kind == "jsonl":
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        elif kind == "csv":
            stream = io.StringIO()
            writer = csv.DictWriter(stream, ["text", "labels"])
            writer.writeheader()
            writer.writerows(rows)
            file.write_text(stream.getvalue(), "utf-8")
        elif kind == "parquet":
            pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("text", "labels")}), file)
        else:
            (folder / f"{split}_texts.txt").write_text("".join(f"{row['text']}\n" for row in rows), "utf-8")
            (folder / f"{split}_labels.txt").write_text("".join(f"{row['labels']}\n" for row in rows), "utf-8")


def read(folder, kind, on_error="refuse", **source):
    """The names of each train text, sorted."""
    raw = read_source(SourceConfig(kind=kind, path=str(folder), **source), on_error)
    labels = raw.splits["train"].labels
    return [sorted(raw.label_names[label] for label in labels[i].indices) for i in range(labels.shape[0])]


ODD_NAMES = [
    "0389", "389", "001", "1", "٣", "3", "²", "1_000", "+5", "-7", "1e3", "0x1f", "9" * 5000, "١٢", "true", "null",
    "é", unicodedata.normalize("NFD", "é"), "Books", "books", "a\u00a0b", "(unknown)", "[x] y", "a: b",
    "#1", "'s", "日本", "a\u200b", "(a) b", "f(x)", "don't", "x]",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_a_string_stay_as_they_are(tmp_path, kind):
    write(tmp_path, kind, [f"{name}, common" for name in ODD_NAMES])
    assert read(tmp_path, kind) == [sorted([name, "common"]) for name in ODD_NAMES]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_names_in_a_list_stay_as_they_are_and_are_those_of_a_string(tmp_path, kind):
    write(tmp_path, kind, [[name, "common"] for name in [*ODD_NAMES, " padded ", "a,b"]])
    assert read(tmp_path, kind) == [sorted([name, "common"]) for name in [*ODD_NAMES, " padded ", "a,b"]]


def test_names_between_blanks_stay_as_they_are(tmp_path):
    names = [name for name in ODD_NAMES if len(name.split()) == 1 and not name.startswith("[")]
    write(tmp_path, "lightxml", [f"{name} common" for name in names])
    assert read(tmp_path, "lightxml") == [sorted([name, "common"]) for name in names]


def test_integers_in_json_are_names_of_their_digits(tmp_path):
    write(tmp_path, "jsonl", [[389, 12], ["389"], [-4], [10**30]])
    assert read(tmp_path, "jsonl") == [["12", "389"], ["389"], ["-4"], [str(10**30)]]


@pytest.mark.parametrize("cell", ["a, b", " a ,b ", "a,,b", "a,b,", ",a, ,b"])
def test_blanks_and_empty_places_in_a_string_make_no_names(tmp_path, cell):
    write(tmp_path, "csv", [cell])
    assert read(tmp_path, "csv") == [["a", "b"]]


LISTS_AS_TEXT = [
    "['a', 'b']", '["a","b"]', "('a', 'b')", "{'a', 'b'}", " ['a', 'b'] ", "['a',\n 'b']", "[u'a', r'b',]",
    '["a", "\\u0062"]', "['a' 'b']", "['a'\n 'b']", "<a><b>",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", LISTS_AS_TEXT)
def test_a_list_written_as_text_is_that_list(tmp_path, kind, cell):
    write(tmp_path, kind, ["fine", cell, "fine"])
    assert read(tmp_path, kind) == [["fine"], ["a", "b"], ["fine"]]


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4))
def test_any_names_survive_as_a_json_list_and_as_one_of_python(names):
    for cell in (json.dumps(names), str(names)):
        assert parse_list(cell.strip()) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_tag_of_stack_exchange_is_the_same_label_as_among_others(tmp_path, kind):
    write(tmp_path, kind, ["<a>", "<b><a>", "<c++>"])
    assert read(tmp_path, kind) == [["a"], ["a", "b"], ["c++"]]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_in_a_list_written_as_text_are_names_of_their_digits(tmp_path, kind):
    write(tmp_path, kind, ["[389, 12]", "(389, '0389')", "(389)", "['a, b; c']"])
    assert read(tmp_path, kind) == [["12", "389"], ["0389", "389"], ["(389)"], ["a, b; c"]]


UNKNOWN_LISTS = [
    "('a' 'b')", "['a' 'b', 'c']", "[a, b]", "set()", "frozenset({'a'})", "array(['a', 'b'], dtype=object)",
    "np.array(['a'])",
    "Index(['a'], dtype='object')", "['a', 'b', 'c", "[np.str_('a')]", '{"a": 1}', "[['a'], ['b']]", "['a' ... 'b']",
    "dict_keys(['a'])", "['a', 'b'] + ['c']", "['a',, 'b']", '["\\ud83d"]', "[f'a']",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", UNKNOWN_LISTS)
def test_a_list_in_another_notation_is_refused_with_its_line(tmp_path, kind, cell):
    write(tmp_path, kind, ["fine", cell, "fine"])
    line = 3 if kind == "csv" else 2
    with pytest.raises(DataError, match=rf"train\.{kind}, line {line}: 'labels' holds a list"):
        read(tmp_path, kind)
    assert read(tmp_path, kind, "skip") == [["fine"], ["fine"]]


def test_a_list_in_another_notation_is_refused_between_blanks_too(tmp_path):
    write(tmp_path, "lightxml", ["fine", "[a, b]"])
    with pytest.raises(DataError, match=r"train_labels\.txt, line 2: a list in an unknown notation"):
        read(tmp_path, "lightxml")


def test_where_every_row_is_refused_the_first_is_named(tmp_path):
    write(tmp_path, "csv", ["[a, b]", "[b]"])
    with pytest.raises(DataError, match=r"train\.csv, line 2: .*a list in an unknown notation: '\[a, b\]'"):
        read(tmp_path, "csv")


MULTI_HOT = [
    [[0, 1, 0, 0], [1, 0, 0, 1]], [["0", "1", "0"], ["1", "0", "1"]], [[0, 0], [0, 1]], [[1, 1, 1], [0, 0, 1]],
    [[0, 1], [1, 0], [0, 1]], [[0.0, 1.0, 0.0]], [[True, False, True]],
]  # fmt: skip


@pytest.mark.parametrize("cells", MULTI_HOT)
def test_multi_hot_lists_are_refused(tmp_path, cells):
    for kind in ("jsonl", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        write(folder, kind, cells)
        with pytest.raises(DataError, match=r"multi-hot list.*Write the (unique )?names"):
            read(folder, kind)


@pytest.mark.parametrize(("kind", "cells", "separator"), [
    ("csv", ["0,1,0,0"], ","), ("csv", ["0 1 0 0"], " "), ("csv", ["0|1|1"], "|"),
    ("csv", ["True,False,False"], ","), ("csv", ["0.0;1.0;0.0"], ";"), ("lightxml", ["0 1 0 0"], None),
])  # fmt: skip
def test_multi_hot_strings_are_refused(tmp_path, kind, cells, separator):
    write(tmp_path, kind, cells)
    with pytest.raises(DataError, match="multi-hot list"):
        read(tmp_path, kind, **({"label_separator": separator} if separator else {}))


def test_one_label_of_two_named_0_and_1_is_no_multi_hot_list(tmp_path):
    write(tmp_path, "jsonl", [[0], [1], ["1"], [0, 1]])
    assert read(tmp_path, "jsonl") == [["0"], ["1"], ["1"], ["0", "1"]]


NOT_NAMES = [[1.5], [1.0], [True], [None], ["a", None], [["a"]], [{"a": 1}], {"a": 1}, 5, 1.5, True, None]


@pytest.mark.parametrize("cell", NOT_NAMES)
def test_what_is_no_name_is_refused_with_its_line(tmp_path, cell):
    write(tmp_path, "jsonl", [["a"], cell])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: 'labels' holds .*(neither a string|no labels)"):
        read(tmp_path, "jsonl")
    assert read(tmp_path, "jsonl", "skip") == [["a"]]


@pytest.mark.parametrize("column", [
    pa.array([[1.5], [2.0]]), pa.array([[True], [False]]), pa.array([[None], ["a"]], pa.list_(pa.string())),
    pa.array([b"a", b"b"]), pa.array([1, 2]), pa.array([{"a": 1}, {"a": 2}]), pa.array([[["a"]], [["b"]]]),
    pa.array([None, "a"]), pa.array([[b"a"], [b"b"]]),
])  # fmt: skip
def test_what_is_no_name_in_parquet_is_refused_with_its_row(tmp_path, column):
    for split in ("train", "test"):
        pq.write_table(pa.table({"text": ["one", "two"], "labels": column}), tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, line 1: 'labels' holds"):
        read(tmp_path, "parquet")


def test_parquet_columns_of_other_string_types_hold_names(tmp_path):
    for number, kind in enumerate((pa.list_(pa.large_string()), pa.large_list(pa.dictionary(pa.int32(), pa.string())))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for split in ("train", "test"):
            table = pa.table({"text": ["one", "two"], "labels": pa.array([["007"], ["7", "x"]], kind)})
            pq.write_table(table, folder / f"{split}.parquet")
        assert read(folder, "parquet") == [["007"], ["7", "x"]]


@pytest.mark.parametrize("name", ["", " ", "\t", "\u00a0", "\u3000\n"])
def test_an_empty_name_in_a_list_is_refused_with_its_line(tmp_path, name):
    write(tmp_path, "jsonl", [["a"], ["a", name]])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: 'labels' holds a label without a name"):
        read(tmp_path, "jsonl")


@pytest.mark.parametrize(("content", "problem"), [
    ("a\nb\na\n", r"labels\.txt, line 3: repeats the name of line 1: 'a'"),
    ("a\n\nb\n", r"labels\.txt, line 2: an empty name"),
    ("a\n  \nb\n", r"labels\.txt, line 2: an empty name"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [*KINDS, "lightxml"])
def test_a_labels_file_with_empty_or_repeated_lines_is_refused_with_the_line(tmp_path, kind, content, problem):
    write(tmp_path, kind, ["a"])
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(DataError, match=problem):
        read(tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_labels_file_digits_are_names_unless_they_are_said_to_be_ids(tmp_path, kind):
    write(tmp_path, kind, ["2", "1,0"])
    (tmp_path / "labels.txt").write_text("2\n1\n0\n")
    assert read(tmp_path, kind) == [["2"], ["0", "1"]]
    assert read(tmp_path, kind, label_ids=True) == [["0"], ["1", "2"]]


def test_a_name_that_the_labels_file_lacks_is_refused_with_its_line_and_the_setting_for_ids(tmp_path):
    write(tmp_path, "csv", ["a", "1"])
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"train\.csv, line 3: a label that labels.txt does not name: '1'.*label_ids"):
        read(tmp_path, "csv")


def test_a_name_in_another_unicode_form_than_in_the_labels_file_is_told_apart(tmp_path):
    write(tmp_path, "csv", [unicodedata.normalize("NFD", "é")])
    (tmp_path / "labels.txt").write_text("é\n", "utf-8")
    with pytest.raises(DataError, match="another Unicode form"):
        read(tmp_path, "csv")


@pytest.mark.parametrize("cell", [[3], [-1], [10**30], ["3"], "3", "0,7"])
def test_an_id_out_of_range_is_refused_with_file_and_line(tmp_path, cell):
    write(tmp_path, "jsonl", [[0], cell])
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: label id out of range: .* is not in 0\.\.2"):
        read(tmp_path, "jsonl", label_ids=True)


@pytest.mark.parametrize("cell", [["a"], "a", "1.0", [1.0], [True], "٣", "1_0", "+1", "0x1", "9" * 5000, [[1]]])
def test_what_is_no_id_is_refused_with_file_and_line(tmp_path, cell):
    write(tmp_path, "jsonl", [[0], cell])
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: 'labels' holds a label that is not an id"):
        read(tmp_path, "jsonl", label_ids=True)


def test_ids_need_the_labels_file_and_a_form_that_could_hold_names(tmp_path):
    write(tmp_path, "csv", ["0"])
    with pytest.raises(DataError, match=r"labels\.txt: is missing"):
        read(tmp_path, "csv", label_ids=True)
    with pytest.raises(ConfigError, match=r"label_ids = True: cannot be used with data\.source\.kind xmc"):
        SourceConfig(kind="xmc", path="here", label_ids=True)


@pytest.mark.parametrize("label", ["1.7", "true", '"1_0"', '"٣"', "null"])
def test_lf_ids_are_integers(tmp_path, label):
    for split in ("trn", "tst"):
        (tmp_path / f"{split}.json").write_text(f'{{"title": "x", "target_ind": [{label}]}}\n')
    (tmp_path / "lbl.json").write_text('{"title": "a"}\n' * 12)
    with pytest.raises(DataError, match=r"trn\.json, line 1: not an object with title and target_ind"):
        read_source(SourceConfig(kind="lf", path=str(tmp_path)))


@pytest.mark.parametrize("label", ["1_0", "٣", "+1", "1.0", "9" * 30])
def test_ids_of_sparse_text_and_pecos_are_integers(tmp_path, label):
    for split, short in (("train", "trn"), ("test", "tst")):
        (tmp_path / f"{split}.tsv").write_text(f"0\tone\n{label}\ttwo\n", "utf-8")
        (tmp_path / f"{split}_raw_texts.txt").write_text("one\ntwo\n")
        (tmp_path / f"Y.{short}.txt").write_text(f"2 12\n0:1\n{label}:1\n", "utf-8")
    (tmp_path / "output-labels.txt").write_text("".join(f"n{i}\n" for i in range(12)))
    with pytest.raises(DataError, match=r"train\.tsv, line 2: not label ids"):
        read_source(SourceConfig(kind="pecos", path=str(tmp_path)))
    with pytest.raises(DataError, match=r"Y\.trn\.txt, line 3: (not a list of label:value|label id out of range)"):
        read_source(SourceConfig(kind="xmc", path=str(tmp_path)))


SUSPICIOUS = [
    (["a|b", "b|c", "d"], ",", [r"2 of 3|4 of 6", r"'\|'", r"'a\|b'", "label_separator"]),
    (["a;b", "b;c", "d;a"], ",", ["';'", "'a;b'"]),
    (["a\tb", "b\tc"], ",", [r"'\\t'"]),
    (["a\nb", "b\nc"], ",", [r"'\\n'"]),
    (["a b", "b c", "c a", "a"], ",", ["' '", "'a b'"]),
    (["a,b", "b,c"], ";", ["','", "label_separator"]),
    (["389.0", "12.0"], ",", ["floating-point", r"'389\.0'"]),
    (["'a', 'b'", "'b'"], ",", ["quotation marks"]),
    (["a", "nan"], ",", ["missing value", "'nan'"]),
    (["a, b", "a\u200b"], ",", ["Unicode form"]),
    (["a, b", "A", "c"], ",", ["differ from another one only in case", "'a' and 'A'"]),
    (["é, b", unicodedata.normalize("NFD", "é")], ",", ["Unicode form", r"'\\xe9' and 'e\\u0301'"]),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "separator", "words"), SUSPICIOUS)
def test_names_that_look_wrong_are_read_and_warned_about_once(tmp_path, caplog, cells, separator, words):
    write(tmp_path, "jsonl", cells)
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path, "jsonl", label_separator=separator)) == len(cells)
    (record,) = caplog.records
    for word in words:
        assert re.search(word, record.getMessage())


@pytest.mark.parametrize("cells", [
    ["running shoes", "leather boots", "shirts"], ["a,b", "c"], ["a", "b", "c"], ["2024", "2025.5", "x.0"],
    ["a|b,c", "d"],
    ["S52.5 Fracture", "S52.6 Fracture of ulna", "J10"],
])  # fmt: skip
def test_sound_names_are_not_warned_about(tmp_path, caplog, cells):
    write(tmp_path, "csv", cells)
    with caplog.at_level(logging.WARNING):
        read(tmp_path, "csv")
    assert not caplog.records


def test_labels_named_by_numbers_keep_their_order(tmp_path):
    write(tmp_path, "csv", ["10", "9", "b", "a", "007", "7"])
    raw = read_source(SourceConfig(kind="csv", path=str(tmp_path)))
    assert raw.label_names == ["007", "7", "9", "10", "a", "b"]
    assert np.asarray(raw.splits["train"].labels.argmax(1)).ravel().tolist() == [3, 2, 5, 4, 0, 1]


def config_of(folder, kind="csv", output="run", **source):
    data = {"source": {"kind": kind, "path": str(folder), **source}, "max_length": 8}
    return config_from_dict({"auto": [], "output": str(folder / output), "data": data})


def test_a_preparation_tells_of_its_labels(tmp_path, caplog):
    write(tmp_path, "csv", ["0389, b", "0389", "c, b, 0389"])
    (tmp_path / "labels.txt").write_text("b\nc\n0389\nunused\n")
    with caplog.at_level(logging.INFO):
        prepare(config_of(tmp_path))
    assert (
        "Labels: 4, such as '0389' (3 texts), 'b' (2 texts), 'c' (1 text); 2.0 per train text; 1 label without a train "
        "text" in caplog.text
    )


def as_before_there_were_label_ids(url, names=None):
    """Change a data set into one that an earlier version made, perhaps with other names."""
    manifest = artefacts.read_json(f"{url}/manifest.json", "")
    del manifest["config"]["source"]["label_ids"], manifest["checksum"]
    if names is not None:
        from cxml.data.writer import write_labels

        info = write_labels(url, names, np.ones(len(names), np.int64))
        manifest["labels"] |= {"rows": info.rows, "bytes": info.bytes, "sha256": info.sha256}
        manifest["num_labels"] = len(names)
    storage.write_json(f"{url}/manifest.json", manifest)


@pytest.mark.parametrize(("kind", "cells"), [
    ("csv", ["a, b", "b"]), ("csv", ["389, 12", "12"]), ("jsonl", [["001"], ["1"]]), ("lightxml", ["001", "1"]),
])  # fmt: skip
def test_data_sets_from_before_stay_valid_where_their_names_are_right(tmp_path, kind, cells):
    write(tmp_path, kind, cells)
    config = config_of(tmp_path, kind)
    as_before_there_were_label_ids(prepare(config))
    assert is_prepared(config)


def test_data_sets_from_before_are_refused_where_digits_were_read_as_numbers(tmp_path):
    write(tmp_path, "csv", ["001", "1", "0389"])
    config = config_of(tmp_path)
    url = prepare(config)
    assert read_label_table(url).names == ["001", "1", "0389"]
    as_before_there_were_label_ids(url, ["1", "389"])
    with pytest.raises(StaleArtefactError, match=r"0389 as 389\)\. It is not changed"):
        is_prepared(config)


def test_data_sets_from_before_are_refused_where_names_may_have_been_taken_for_ids(tmp_path):
    write(tmp_path, "csv", ["1", "2"])
    (tmp_path / "labels.txt").write_text("2\n1\n0\n")
    config = config_of(tmp_path)
    as_before_there_were_label_ids(prepare(config))
    with pytest.raises(StaleArtefactError, match="read label names of digits as numbers"):
        is_prepared(config)


def test_ids_and_names_make_different_data_sets(tmp_path):
    write(tmp_path, "csv", ["1", "0"])
    (tmp_path / "labels.txt").write_text("1\n0\n")
    prepare(config_of(tmp_path))
    with pytest.raises(StaleArtefactError, match="'label_ids': True"):
        prepare(config_of(tmp_path, label_ids=True))
    names = read_label_table(prepare(config_of(tmp_path, output="other", label_ids=True))).names
    assert names == ["1", "0"]
