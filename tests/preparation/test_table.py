"""`kind: table`: common file formats, guessed columns and separators, a test split that leaves labels in training.

Oracles: the rows that were written, and a brute-force check of which rows may be held out (hypothesis).
"""

import csv
import dataclasses
import functools
import gzip
import json
import random
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import MINILM, small_config

from cxml.config import SourceConfig
from cxml.data import Ragged
from cxml.errors import DataError
from cxml.formats import read_source, source_facts
from cxml.formats.table import held_out_with_few_labels_alone
from cxml.preparation import expected_fingerprint

ROWS = [(f"text {i}, of fruit", [f"n{i % 7}", "all"] if i % 2 else ["all"]) for i in range(40)]


def write_csv(path, rows=ROWS, columns=("text", "labels"), delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows((text, ",".join(labels)) for text, labels in rows)


def write_lines(path, rows=ROWS):
    path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))


def write_json(path, rows=ROWS):
    path.write_text(json.dumps([{"text": text, "labels": labels} for text, labels in rows], indent=1))


def table_of(rows=ROWS):
    return pa.table({"text": [text for text, _ in rows], "labels": [labels for _, labels in rows]})


def write_zstd(path, rows=ROWS):
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows).encode())


def write_gzip(path, rows=ROWS):
    write_csv(path.with_suffix(""), rows)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def write_arrow(path, rows=ROWS, table=None):
    table = table or table_of(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS = {
    "rows.csv": write_csv, "rows.tsv": lambda path: write_csv(path, delimiter="\t"), "rows.jsonl": write_lines,
    "rows.ndjson": write_lines, "lines.json": write_lines, "list.json": write_json, "rows.csv.gz": write_gzip,
    "rows.jsonl.zst": write_zstd, "rows.parquet": lambda path: pq.write_table(table_of(), path),
    "rows.arrow": write_arrow,
}  # fmt: skip


def source(path, **settings):
    return SourceConfig(kind="table", path=str(path), **settings)


def pairs(raw):
    """Text and names of labels of all rows, by split."""
    return {
        name: {
            text: sorted(raw.label_names[label] for label in split.labels[row].indices)
            for row, text in enumerate(split.texts)
        }
        for name, split in raw.splits.items()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_one_file_of_any_form_is_enough(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = pairs(read_source(source(tmp_path / name, test_fraction=0.25)))
    assert len(found["test"]) == 10
    assert found["train"] | found["test"] == {text: sorted(labels) for text, labels in ROWS}
    assert not found["train"].keys() & found["test"].keys()


@pytest.mark.parametrize("name", ["validation.jsonl", "val-2.jsonl", "dev/rows.jsonl", "Valid.jsonl"])
@pytest.mark.parametrize("has_test", [True, False])
def test_a_file_called_after_validation_is_that_split_and_nothing_else_is(tmp_path, name, has_test):
    write_csv(tmp_path / "train.csv", ROWS[:20])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_lines(tmp_path / name, ROWS[20:30])
    if has_test:
        write_json(tmp_path / "test.json", ROWS[30:])
    found = pairs(read_source(source(tmp_path, test_fraction=0.25)))
    assert found["validation"] == {text: sorted(labels) for text, labels in ROWS[20:30]}
    others = {**found["train"], **found["test"]}
    expected = ROWS[:20] + ROWS[30:] if has_test else ROWS[:20]
    assert others == {text: sorted(labels) for text, labels in expected}


def test_a_folder_is_all_of_its_tables_and_a_test_file_is_the_test_split(tmp_path):
    write_csv(tmp_path / "train-1.csv", ROWS[:10])
    write_lines(tmp_path / "train-2.jsonl", ROWS[10:30])
    write_json(tmp_path / "test.json", ROWS[30:])
    (tmp_path / "README.md").write_text("no table")
    (tmp_path / ".hidden.csv").write_text("no,table\n")
    found = pairs(read_source(source(tmp_path)))
    assert found["train"] == {text: sorted(labels) for text, labels in ROWS[:30]}
    assert found["test"] == {text: sorted(labels) for text, labels in ROWS[30:]}


@pytest.mark.parametrize("is_list", [True, False])
def test_a_hugging_face_folder_gives_its_classes_by_name(tmp_path, is_list):
    classes = {"names": ["pear", "plum", "fig"], "_type": "ClassLabel"}
    feature = {"feature": classes, "_type": "List"} if is_list else classes
    about = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": feature}}}
    numbers = [[i % 3, (i + 1) % 3] if is_list else i % 3 for i in range(12)]
    table = pa.table({"text": [f"text {i}" for i in range(12)], "label": numbers})
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    for split, rows in (("train", slice(0, 9)), ("test", slice(9, 12))):
        (tmp_path / split).mkdir()
        write_arrow(
            tmp_path / split / "data-00000-of-00001.arrow", table=table.slice(rows.start, rows.stop - rows.start)
        )
        (tmp_path / split / "dataset_info.json").write_text("{}")
        (tmp_path / split / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    raw = read_source(source(tmp_path))
    assert raw.label_names == ["fig", "pear", "plum"]
    assert pairs(raw)["test"]["text 10"] == (["fig", "plum"] if is_list else ["plum"])
    pq.write_table(table, tmp_path / "whole.parquet")
    assert (
        pairs(read_source(source(tmp_path / "whole.parquet")))["train"].items()
        <= {text: labels for split in pairs(raw).values() for text, labels in split.items()}.items()
    )


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (("Content", "Tags"), True),
        (("review", "labels"), True),
        (("text", "kind"), True),
        (("essay", "kind"), False),
        (("Title", "Genre"), True),
        (("Full Text", "MeSH-Terms"), True),
        (("review", "Subject"), True),
    ],
)
def test_columns_are_guessed_where_one_choice_is_obvious(tmp_path, columns, chosen):
    write_csv(tmp_path / "rows.csv", columns=columns)
    if chosen:
        raw = read_source(source(tmp_path / "rows.csv"))
        assert sum(len(split.texts) for split in raw.splits.values()) == len(ROWS)
        return
    with pytest.raises(DataError, match=r"'essay', 'kind'.*text_column"):
        read_source(source(tmp_path / "rows.csv"))
    named = source(tmp_path / "rows.csv", text_column="essay", labels_column="kind")
    assert "all" in read_source(named).label_names


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_files_are_read_by_the_delimiter_of_their_first_line(tmp_path, delimiter):
    for name, each in (("other", delimiter), ("comma", ",")):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "rows.csv", delimiter=each)
    other, comma = (pairs(read_source(source(tmp_path / name))) for name in ("other", "comma"))
    assert other == comma


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_quoted_names_of_columns_do_not_hide_the_delimiter(tmp_path, delimiter):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "labels"])
        writer.writerows([text, ",".join(labels)] for text, labels in ROWS)
    found = pairs(read_source(source(tmp_path / "rows.csv")))
    assert found["train"] | found["test"] == {text: sorted(labels) for text, labels in ROWS}


def write_records(path, rows):
    """Rows of equal columns as a file of the form that the name says."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def all_texts(raw):
    return {text for split in raw.splits.values() for text in split.texts}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("names", "is_joined"),
    [
        (("title", "abstract"), True),
        (("Headline", "Body"), True),
        (("name", "description"), True),
        (("Title", "Full text"), True),
        (("name", "content"), False),
        (("title", "text"), False),
    ],
)
def test_a_title_is_joined_with_its_text_unless_the_text_is_called_so(tmp_path, caplog, suffix, names, is_joined):
    title, text = names
    rows = [{"id": i, text: f"a{i}", title: f"t{i}" if i else None, "subjects": "x"} for i in range(10)]
    write_records(tmp_path / f"rows{suffix}", rows)
    with caplog.at_level("INFO"):
        raw = read_source(source(tmp_path / f"rows{suffix}"))
    assert all_texts(raw) == {f"t{i} a{i}" if i and is_joined else f"a{i}" for i in range(10)}
    assert (f"texts are in the column '{title}+{text}', labels" in caplog.text) == is_joined
    assert ("labels in 'subjects'; not used: '" in caplog.text) != is_joined


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["table", "of the suffix"])
def test_columns_that_are_named_are_joined_in_their_order(tmp_path, suffix, kind):
    rows = [{"b+c": f"x{i}", "a": f"y{i}", "text": f"z{i}", "labels": "x"} for i in range(10)]
    for name in ("train", "test"):
        write_records(tmp_path / f"{name}{suffix}", rows)
    for column, form in (("text+a", "z{0} y{0}"), ("b+c", "x{0}"), (" a + text", "y{0} z{0}")):
        given = source(tmp_path, text_column=column)
        raw = read_source(given if kind == "table" else dataclasses.replace(given, kind=suffix[1:]))
        assert all_texts(raw) == {form.format(i) for i in range(10)}
    with pytest.raises(DataError, match="gone"):
        read_source(source(tmp_path, text_column="gone+gone too"))


def test_data_prepared_without_a_title_are_other_data(tmp_path):
    rows = [{"title": f"t{i}", "abstract": f"a{i}", "labels": "x"} for i in range(10)]
    write_records(tmp_path / "rows.csv", rows)
    now, before = (source(tmp_path / "rows.csv", **given) for given in ({}, {"text_column": "abstract"}))
    one, other = (expected_fingerprint(small_config(tmp_path, MINILM, data={"source": each})) for each in (now, before))
    assert one != other


@pytest.mark.parametrize("separator", [";", " | ", "\n"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_separates_labels_is_guessed_where_the_same_names_come_back_in_other_company(tmp_path, separator, suffix):
    rows = [(f"text {i}", [separator.join((f"n{i % 7}", f"m{i % 5}"))]) for i in range(40)]
    file = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        write_csv(file, rows)
    else:
        file.write_text("".join(json.dumps({"text": text, "labels": labels[0]}) + "\n" for text, labels in rows))
    assert sorted(read_source(source(file)).label_names) == sorted(
        {f"n{i}" for i in range(7)} | {f"m{i}" for i in range(5)}
    )


@pytest.mark.parametrize("count", [40, 300])
def test_separators_are_guessed_in_small_tables_with_more_names_than_rows(tmp_path, count):
    """Most names are rare and a few are frequent, and some have a comma."""
    draw = random.Random(0)
    names = [f"topic {i}, x" if i % 9 == 0 else f"topic {i}" for i in range(3 * count)]
    cells = [
        "; ".join(dict.fromkeys(names[int(len(names) * draw.random() ** 3)] for _ in range(6))) for _ in range(count)
    ]
    write_csv(tmp_path / "rows.csv", [(f"text {i}", [cell]) for i, cell in enumerate(cells)])
    found = set(read_source(source(tmp_path / "rows.csv")).label_names)
    assert found == {name for cell in cells for name in cell.split("; ")}
    assert len(found) > count


@pytest.mark.parametrize("cells", [
    [f"name {i}; of one label" for i in range(20)],  # no shared names
    [f"n{i % 7}, m{i % 5}; x" for i in range(40)],  # commas give fewer names
    [f"plain {i % 3}" for i in range(20)],
    [f"first {i}; second; third" for i in range(40)],  # parts recur, but few
])  # fmt: skip
def test_labels_stay_whole_where_nothing_says_that_a_separator_is_one(tmp_path, cells):
    write_csv(tmp_path / "rows.csv", [(f"text {i}", [cell]) for i, cell in enumerate(cells)])
    expected = {name.strip() for cell in cells for name in cell.split(",")}
    assert set(read_source(source(tmp_path / "rows.csv")).label_names) == expected


def test_a_separator_that_was_given_stays(tmp_path):
    write_csv(tmp_path / "rows.csv", [(f"text {i}", [f"n{i % 7};m{i % 5}"]) for i in range(40)])
    names = read_source(source(tmp_path / "rows.csv", label_separator="|")).label_names
    assert "n0;m0" in names


def test_a_column_that_was_named_is_never_replaced(tmp_path):
    write_csv(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="has no column 'body'"):
        read_source(source(tmp_path / "rows.csv", text_column="body"))


@pytest.mark.parametrize(("name", "words"), [("gone.csv", "does not exist"), ("empty", "contains no table")])
def test_a_place_without_a_table_is_refused(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.md").write_text("nothing")
    with pytest.raises(DataError, match=words):
        read_source(source(tmp_path / name))


def test_broken_rows_are_named_by_their_line_wherever_the_split_puts_them(tmp_path):
    write_lines(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"text": "no labels"}\n')
    with pytest.raises(DataError, match="line 41"):
        read_source(source(tmp_path / "rows.jsonl"))
    kept = read_source(source(tmp_path / "rows.jsonl"), on_error="skip")
    assert sum(len(split.texts) for split in kept.splits.values()) == len(ROWS)


@given(
    lists=st.lists(st.lists(st.integers(0, 9), unique=True, max_size=4), min_size=1, max_size=40),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_labels_stay_in_training_as_long_as_rows_allow(lists, fraction, seed):
    """No row was held out that takes a label along while another could have gone without."""
    labels = Ragged.from_lists(lists)
    is_test = held_out_with_few_labels_alone(labels, fraction, seed)
    assert is_test.sum() == round(len(lists) * fraction)
    left = {label for row, own in enumerate(lists) if not is_test[row] for label in own}
    is_lost = [any(label not in left for label in own) for own in lists]
    counts = np.bincount([label for row, own in enumerate(lists) if not is_test[row] for label in own], minlength=10)
    could_go = [all(counts[label] > 1 for label in own) for row, own in enumerate(lists) if not is_test[row]]
    if any(could_go):
        assert not any(is_lost)
    np.testing.assert_array_equal(is_test, held_out_with_few_labels_alone(labels, fraction, seed))


def test_what_gives_fewer_names_than_commas_separates_and_is_told_once(tmp_path, caplog):
    names = ["Tuberculosis, lungs", "Cholera", "Plague, bubonic"]
    rows = [(f"text {i}", [";".join(sorted({names[i % 3], names[i % 2]}))]) for i in range(40)]
    write_csv(tmp_path / "doubtful.csv", rows)
    write_csv(tmp_path / "clear.csv")
    with caplog.at_level("WARNING"):
        for _ in range(2):
            read_source(source(tmp_path / "clear.csv"))
            assert set(read_source(source(tmp_path / "doubtful.csv")).label_names) == set(names)
    (message,) = [record.getMessage() for record in caplog.records if "separated" in record.getMessage()]
    assert "doubtful.csv" in message
    assert "data.source.label_separator" in message
    with_commas = read_source(source(tmp_path / "doubtful.csv", label_separator=",")).label_names
    assert any(";" in name for name in with_commas)


@pytest.mark.parametrize("cells", [["a,b", "b"], ["a;b", "b;a", "a"]])
def test_data_prepared_before_there_was_auto_are_the_same(tmp_path, cells):
    write_csv(tmp_path / "rows.csv", [(f"text {i}", [cell]) for i, cell in enumerate(cells * 5)])
    now, before = (source(tmp_path / "rows.csv", **given) for given in ({}, {"label_separator": ","}))
    one, other = (expected_fingerprint(small_config(tmp_path, MINILM, data={"source": each})) for each in (now, before))
    assert one == other


def test_data_prepared_by_another_separator_are_other_data(tmp_path):
    names = ["Tuberculosis, lungs", "Cholera", "Plague, bubonic"]
    write_csv(
        tmp_path / "rows.csv", [(f"text {i}", [";".join(sorted({names[i % 3], names[i % 2]}))]) for i in range(40)]
    )
    guessed, set_to_commas, semicolons = (
        source_facts(source(tmp_path / "rows.csv", **given))
        for given in ({}, {"label_separator": ","}, {"label_separator": ";"})
    )
    assert guessed != set_to_commas  # the settings are the same
    assert set_to_commas == semicolons  # the settings differ


@pytest.mark.parametrize("names", [
    ("my_train.csv", "my_test.csv", "my_dev.csv"),
    ("training.csv", "testing.csv", "valid.csv"),
    ("set/reviews-Train-1.csv", "set/reviews-Test-1.csv", "set/reviews-val.csv"),
])  # fmt: skip
def test_splits_can_be_anywhere_in_the_names_if_no_name_begins_with_one(tmp_path, names):
    parts = dict(zip(("train", "test", "validation"), (ROWS[:20], ROWS[20:30], ROWS[30:]), strict=True))
    for name, rows in zip(names, parts.values(), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_csv(tmp_path / name, rows)
    found = pairs(read_source(source(tmp_path)))
    assert found == {split: {text: sorted(labels) for text, labels in rows} for split, rows in parts.items()}


@pytest.mark.parametrize("names", [("latest.csv", "trains.csv"), ("blood-test.csv", "other.csv")])
def test_words_in_names_are_not_splits_without_a_file_of_training(tmp_path, names):
    write_csv(tmp_path / names[0], ROWS[:20])
    write_csv(tmp_path / names[1], ROWS[20:])
    assert len(pairs(read_source(source(tmp_path, test_fraction=0.25)))["test"]) == 10


def test_splits_inside_of_names_make_other_data(tmp_path):
    for name in ("a_train.csv", "a_test.csv"):
        write_csv(tmp_path / name)
    assert source_facts(source(tmp_path))["splits"] == [1, 1]


def test_a_compressed_copy_of_a_file_is_not_read_again(tmp_path, caplog):
    write_gzip(tmp_path / "train.csv.gz")
    write_csv(tmp_path / "train.csv")
    raw = read_source(source(tmp_path))
    assert sum(len(split.texts) for split in raw.splits.values()) == len(ROWS)
    assert "train.csv.gz is not read" in caplog.text


@pytest.mark.parametrize("name", ["ROWS.CSV", "ROWS.CSV.GZ", "ROWS.PARQUET", "Rows.Jsonl"])
def test_upper_case_in_the_name_of_a_file_makes_no_difference(tmp_path, name):
    WRITERS[next(each for each in WRITERS if each == name.lower())](tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    found = pairs(read_source(source(tmp_path / name)))
    assert found["train"] | found["test"] == {text: sorted(labels) for text, labels in ROWS}


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
def test_the_delimiter_that_a_file_gives_excel_is_no_row(tmp_path, delimiter):
    write_csv(tmp_path / "rows.csv", delimiter=delimiter)
    content = (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfsep=" + delimiter.encode() + b"\r\n" + content)
    found = pairs(read_source(source(tmp_path / "rows.csv")))
    assert found["train"] | found["test"] == {text: sorted(labels) for text, labels in ROWS}
    with (tmp_path / "rows.csv").open("a") as file:
        file.write("short\n")
    with pytest.raises(DataError, match=f"line {len(ROWS) + 3}: the number of columns"):
        read_source(source(tmp_path / "rows.csv"))


def test_a_tsv_file_without_tabs_has_other_delimiters(tmp_path):
    write_csv(tmp_path / "rows.tsv")
    found = pairs(read_source(source(tmp_path / "rows.tsv")))
    assert found["train"] | found["test"] == {text: sorted(labels) for text, labels in ROWS}


@pytest.mark.parametrize("columns", [(" text ", " labels"), (" Title ", "tags "), ("Text", " LABELS ")])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_blanks_around_the_names_of_columns_make_no_difference(tmp_path, suffix, columns):
    text, labels = columns
    write_records(tmp_path / f"rows{suffix}", [{text: f"a{i}", "essay": "x", labels: "y"} for i in range(10)])
    assert all_texts(read_source(source(tmp_path / f"rows{suffix}"))) == {f"a{i}" for i in range(10)}
    write_records(tmp_path / f"rows{suffix}", [{" title ": f"a{i}", " body": "x", labels: "y"} for i in range(10)])
    assert all_texts(read_source(source(tmp_path / f"rows{suffix}"))) == {f"a{i} x" for i in range(10)}


@pytest.mark.parametrize("columns", [
    ("id", "text"), ("title", "abstract"), ("text", "text"), ("ID", "labels"), ("labels", "labels"),
])  # fmt: skip
def test_a_key_a_title_or_a_repeated_column_is_not_the_other_of_two_columns(tmp_path, columns):
    write_csv(tmp_path / "rows.csv", columns=columns)
    with pytest.raises(DataError, match=r"ambiguous.*The first row must name the columns"):
        read_source(source(tmp_path / "rows.csv"))


@pytest.mark.parametrize("form", [".jsonl", ".json"])
def test_columns_of_json_are_those_of_many_rows(tmp_path, form):
    rows = [{"title": "t"}, {"other": 1}, *({"title": f"t{i}", "abstract": f"a{i}", "tags": ["x"]} for i in range(9))]
    lines = map(json.dumps, rows)
    (tmp_path / f"rows{form}").write_text(f"[{','.join(lines)}]" if form == ".json" else "\n".join(lines))
    kept = read_source(source(tmp_path / f"rows{form}"), on_error="skip")
    assert all_texts(kept) == {f"t{i} a{i}" for i in range(9)}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_integer_is_a_label_in_every_form(tmp_path, suffix):
    write_records(tmp_path / f"rows{suffix}", [{"text": f"a{i}", "label": i % 3} for i in range(12)])
    assert read_source(source(tmp_path / f"rows{suffix}")).label_names == ["0", "1", "2"]


def test_commas_in_names_of_single_labels_are_told(tmp_path, caplog):
    names = ["Arts, Crafts & Sewing", "Clothing, Shoes", "Books"]
    write_csv(tmp_path / "rows.csv", [(f"text {i}", [names[i % 3]]) for i in range(40)])
    assert "Crafts & Sewing" in read_source(source(tmp_path / "rows.csv")).label_names
    assert "If commas are parts of names, set data.source.label_separator" in caplog.text
    assert read_source(source(tmp_path / "rows.csv", label_separator="|")).label_names == sorted(names)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("rows.csv", "", "is empty"), ("rows.csv", "\n\ntext,labels\na,b\n", "names no columns"),
    ("rows.jsonl", "{}\n{}\n", "names no columns"), ("rows.json", "[]", "has no rows"),
    ("rows.csv", "text,labels\n", "has no rows"), ("rows.csv", "text,labels\na,\n", "no row has a label"),
    ("rows.json", '{\n"data": []}', "Write one list of objects, or an object per line"),
    ("rows.csv.zip", "PK", "Unpack archives"), ("rows.xlsx", "PK", "save sheets as CSV"),
    ("rows.csv", "text,tags\na,set()\n", "a list in an unknown notation"),
])  # fmt: skip
def test_files_that_are_no_tables_are_refused_with_the_remedy(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_source(source(tmp_path / name))


def test_a_test_file_without_labels_is_refused_with_the_remedy(tmp_path):
    write_csv(tmp_path / "train.csv")
    write_csv(tmp_path / "test.csv", columns=("text", "id"))
    with pytest.raises(DataError, match=r"test\.csv.*has no column 'labels'.*move files of texts without labels"):
        read_source(source(tmp_path))


def test_files_that_are_not_read_are_told(tmp_path, caplog):
    for name in ("train.csv", "test.csv", "holdout.csv"):
        write_csv(tmp_path / name)
    read_source(source(tmp_path))
    assert "not read, because their names have no split as other names do: holdout.csv" in caplog.text


def labels_by_text(raw):
    return {text: labels for split in pairs(raw).values() for text, labels in split.items()}


FLAGS = {"0 and 1": (0, 1), "floats": (0.0, 1.0), "booleans": (False, True), "strings": ("0", "1")}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("notation", FLAGS)
def test_columns_of_0_and_1_are_labels_with_their_names(tmp_path, caplog, suffix, notation):
    names, (no, yes) = ["C++", "toxic", "x, y"], FLAGS[notation]
    expected = {f"text {i}": [name for j, name in enumerate(names) if (i + 1) >> j & 1] for i in range(20)}
    expected = {text: labels or ["toxic"] for text, labels in expected.items()}
    rows = [
        {"id": i, "essay": text, **{name: yes if name in labels else no for name in names}, "rare": no}
        for i, (text, labels) in enumerate(expected.items())
    ]
    write_records(tmp_path / f"rows{suffix}", rows)
    with caplog.at_level("INFO"):
        assert labels_by_text(read_source(source(tmp_path / f"rows{suffix}"))) == expected
    assert "in the column 'essay', labels in 'C+++toxic+x, y+rare' (0 or 1 for each label)" in caplog.text


def test_flags_of_the_notation_that_fewer_columns_have_are_not_labels(tmp_path):
    rows = [{"text": f"t{i}", "is_long": i % 3 == 0, "a": i % 2, "b": 1 - i % 2} for i in range(20)]
    write_records(tmp_path / "rows.jsonl", rows)
    assert read_source(source(tmp_path / "rows.jsonl")).label_names == ["a", "b"]


def test_a_row_without_a_flag_and_a_cell_that_is_none_are_named_by_their_line(tmp_path):
    rows = [{"text": f"t{i}", "a": i % 2, "b": 1 - i % 2} for i in range(20)]
    write_records(tmp_path / "train.csv", rows)
    for row, words in (
        ({"text": "x", "a": 1, "b": "?"}, r"the columns of labels hold neither 0 nor 1 in 'b': '\?'"),
        ({"text": "y", "a": 0, "b": 0}, "this row has no label"),
    ):
        write_records(tmp_path / "test.csv", [rows[0], row])
        with pytest.raises(DataError, match=rf"test\.csv, line 3: {words}"):
            read_source(source(tmp_path))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("names", [("label1", "label2", "label3"), ("Cat_1", "Cat_2", "Cat_3"), ("l1", "l2", "l3")])
def test_numbered_columns_have_a_label_in_each_cell(tmp_path, suffix, names):
    cells = [("Health, Home", f"n{i % 4}", "" if i % 2 else f"n{i % 3}") for i in range(20)]
    rows = [{"text": f"t{i}", **dict(zip(names, row, strict=True))} for i, row in enumerate(cells)]
    write_records(tmp_path / f"rows{suffix}", rows)
    expected = {f"t{i}": sorted(set(filter(None, row))) for i, row in enumerate(cells)}
    assert labels_by_text(read_source(source(tmp_path / f"rows{suffix}"))) == expected


@pytest.mark.parametrize("kind", ["table", "csv"])
def test_columns_of_labels_that_are_named_are_joined(tmp_path, kind):
    rows = [{"text": f"t{i}", "kind": "a|b", "group": f"n{i % 3}", "other": "x"} for i in range(20)]
    for name in ("train", "test"):
        write_records(tmp_path / f"{name}.csv", rows)
    given = dataclasses.replace(source(tmp_path, labels_column="kind + group"), kind=kind)
    assert read_source(given).label_names == ["a|b", "n0", "n1", "n2"]
    flags = [{**row, "kind": i % 2, "group": 1} for i, row in enumerate(rows)]
    for name in ("train", "test"):
        write_records(tmp_path / f"{name}.csv", flags)
    if kind == "table":
        assert read_source(given).label_names == ["group", "kind"]
    else:
        with pytest.raises(DataError, match=r"only 0 and 1.*kind table"):
            read_source(given)


def write_fasttext(path, rows=ROWS):
    lines = [" ".join((*(f"__label__{label}" for label in labels), text)) + "\n" for text, labels in rows]
    path.write_text("".join(lines))


@pytest.mark.parametrize("name", ["rows.txt", "cooking.train", "rows.fasttext", "rows"])
def test_text_of_fasttext_is_a_table(tmp_path, name):
    write_fasttext(tmp_path / name, [*ROWS, ("an __label__ and an __label__all  here", ["n1"])])
    expected = {text: sorted(labels) for text, labels in ROWS} | {"an __label__ and an here": ["all", "n1"]}
    assert labels_by_text(read_source(source(tmp_path / name))) == expected


def test_a_folder_without_tables_can_hold_text_of_fasttext(tmp_path):
    for name in ("cooking.train", "cooking.valid", "cooking.test"):
        write_fasttext(tmp_path / name)
    (tmp_path / "README.txt").write_text("About these files.\n")
    (tmp_path / "about.bin").write_bytes(bytes(range(256)) * 99)
    assert {name: len(split.texts) for name, split in read_source(source(tmp_path)).splits.items()} == {
        "train": 40, "test": 40, "validation": 40
    }  # fmt: skip
    write_csv(tmp_path / "rows.csv", ROWS[:10])
    assert len(all_texts(read_source(source(tmp_path)))) == 10


def test_a_line_of_fasttext_without_a_label_is_named(tmp_path):
    write_fasttext(tmp_path / "rows.txt", [*ROWS, ("alone", [])])
    with pytest.raises(DataError, match=r"rows\.txt, line 41: this row has no label"):
        read_source(source(tmp_path / "rows.txt"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(range(256)) * 999, b"a text\nanother\n"])
def test_other_files_are_no_text_of_fasttext(tmp_path, content):
    (tmp_path / "rows.xlsx").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.xlsx.*no table.*no text of fastText.*save sheets as CSV"):
        read_source(source(tmp_path / "rows.xlsx"))


SPLITS = ["train", "Training", "test", "val", "dev", " train "]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["split", "Set"])
def test_a_column_of_splits_splits_the_rows_in_any_order(tmp_path, caplog, suffix, column):
    splits = sorted(SPLITS[i % 6] for i in range(60))
    rows = [{"text": f"t{i}", "labels": f"n{i % 3}", column: split} for i, split in enumerate(splits)]
    write_records(tmp_path / f"rows{suffix}", rows)
    with caplog.at_level("INFO"):
        raw = read_source(source(tmp_path / f"rows{suffix}"))
    groups = {"train": [*SPLITS[::5], SPLITS[1]], "test": ["test"], "validation": ["val", "dev"]}
    assert {name: split.texts for name, split in raw.splits.items()} == {
        name: [row["text"] for row in rows if row[column] in own] for name, own in groups.items()
    }
    assert f"the column '{column}' names the split of each row: train, test, validation" in caplog.text


@pytest.mark.parametrize(("last", "is_told"), [("train", False), ("", True), ("fold 2", True)])
def test_a_column_that_names_splits_in_some_rows_only_is_told_and_not_used(tmp_path, caplog, last, is_told):
    rows = [{"text": f"t{i}", "labels": f"n{i % 3}", "split": ("train", "test")[i % 2]} for i in range(20)]
    write_records(tmp_path / "rows.csv", [*rows, {"text": "t20", "labels": "n0", "split": last}])
    raw = read_source(source(tmp_path / "rows.csv"))
    assert ("so it is not used" in caplog.text) == is_told
    assert len(next(split for name, split in raw.splits.items() if name == "test").texts) == (4 if is_told else 10)


def test_a_column_of_splits_that_a_file_lacks_is_told_and_not_used(tmp_path, caplog):
    rows = [{"text": f"t{i}", "labels": f"n{i % 3}", "split": ("train", "test")[i % 2]} for i in range(20)]
    write_records(tmp_path / "a.csv", rows)
    write_records(tmp_path / "b.csv", [{"text": f"u{i}", "labels": "n0"} for i in range(20)])
    assert len(all_texts(read_source(source(tmp_path)))) == 40
    assert "so it is not used" in caplog.text


def test_files_that_are_named_after_splits_count_more_than_a_column_of_splits(tmp_path):
    rows = [{"text": f"t{i}", "labels": f"n{i % 3}", "split": ("train", "test")[i % 2]} for i in range(20)]
    for name in ("train", "test"):
        write_records(tmp_path / f"{name}.csv", rows)
    assert [len(split.texts) for split in read_source(source(tmp_path)).splits.values()] == [20, 20]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_row_for_each_label_of_a_text_is_told(tmp_path, caplog, suffix):
    rows = [{"title": f"t{i}", "body": "b", "label": label} for i in range(10) for label in ("x", f"n{i % 3}")]
    write_records(tmp_path / f"once{suffix}", rows[::2])
    write_records(tmp_path / f"again{suffix}", rows)
    read_source(source(tmp_path / f"once{suffix}"))
    assert "occur again" not in caplog.text
    read_source(source(tmp_path / f"again{suffix}"))
    assert "10 of 10 texts in the first rows occur again with other labels" in caplog.text


@pytest.mark.parametrize(("copies", "is_told"), [(1, False), (2, True)])
def test_texts_in_both_parts_of_a_split_are_told(tmp_path, caplog, copies, is_told):
    write_csv(tmp_path / "rows.csv", ROWS * copies)
    with caplog.at_level("WARNING"):
        raw = read_source(source(tmp_path / "rows.csv", test_fraction=0.25))
    texts = {name: split.texts for name, split in raw.splits.items()}
    num_shared = sum(text in texts["train"] for text in texts["test"])
    assert (num_shared > 0) == is_told
    told = f"{num_shared} of {len(texts['test'])} test texts are equal to a train text"
    assert (told in caplog.text) == is_told


@pytest.fixture
def web(tmp_path):
    """The address of an HTTP server of the folder of the test."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/mine.csv", "/mine.csv?sig=t0ken", "/"])
def test_a_table_is_read_over_http_from_its_own_address_or_that_of_its_folder(web, tmp_path, path):
    write_csv(tmp_path / "mine.csv")
    raw = read_source(SourceConfig(kind="table", path=f"{web}{path}"))
    texts = [text for split in raw.splits.values() for text in split.texts]
    assert sorted(texts) == sorted(text for text, _ in ROWS)
