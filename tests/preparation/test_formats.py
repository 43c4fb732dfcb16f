"""Every raw format, plain and compressed, returns the texts and labels that were written; broken rows are named.

Oracles: a slice of WordNet in another format, Python's own string and set operations (hypothesis).
"""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.config import SourceConfig
from cxml.errors import DataError
from cxml.formats import Cleaner, open_source, read_blocks, read_source, source_facts
from cxml.formats.keys import SeenKeys
from cxml.formats.label_files import _parse_whole
from cxml.formats.lines import read_lines

SUFFIXES = {"train": "trn", "test": "tst"}


def put(file: Path, content: str | bytes, compression: str = "") -> None:
    data = content.encode() if isinstance(content, str) else content
    if compression:
        codec = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[compression]
        with pa.CompressedOutputStream(str(file) + compression, codec) as stream:
            stream.write(data)
    else:
        file.write_bytes(data)


def rows_of(raw, split):
    """(text, label ids) of each row."""
    part = raw.splits[split]
    return [(text, part.labels[i].indices.tolist()) for i, text in enumerate(part.texts)]


def matrix_bytes(matrix):
    stream = io.BytesIO()
    sparse.save_npz(stream, matrix)
    return stream.getvalue()


def sparse_text(matrix):
    rows = [" ".join(f"{label}:1" for label in matrix[i].indices) for i in range(matrix.shape[0])]
    return "\n".join([f"{matrix.shape[0]} {matrix.shape[1]}", *rows]) + "\n"


def write_xmc_text(folder, raw, compression):
    for split, suffix in SUFFIXES.items():
        put(folder / f"{split}_raw_texts.txt", "\n".join(raw.splits[split].texts), compression)
        put(folder / f"Y.{suffix}.txt", sparse_text(raw.splits[split].labels), compression)
    put(folder / "Y.txt", "\n".join(raw.label_names), compression)


def write_xmc_matrix(folder, raw, compression):
    for split, suffix in SUFFIXES.items():
        put(folder / f"{split}_raw_texts.txt", "\n".join(raw.splits[split].texts), compression)
        put(folder / f"Y.{suffix}.npz", matrix_bytes(raw.splits[split].labels), compression)
    put(folder / "Y.txt", "\n".join(raw.label_names), compression)


def write_lightxml(folder, raw, compression):
    for split in SUFFIXES:
        put(folder / f"{split}_texts.txt", "\n".join(raw.splits[split].texts), compression)
        lines = (" ".join(raw.label_names[label] for label in labels) for _, labels in rows_of(raw, split))
        put(folder / f"{split}_labels.txt", "\n".join(lines) + "\n", compression)


def write_lf(folder, raw, compression):
    for split, suffix in SUFFIXES.items():
        objects = []
        for i, (text, labels) in enumerate(rows_of(raw, split)):
            title, _, content = text.partition(" ")
            objects.append({"uid": f"{split}{i}", "title": title, "content": content, "target_ind": labels,
                            "target_rel": [1.0] * len(labels)})  # fmt: skip
        put(folder / f"{suffix}.json", "".join(json.dumps(value) + "\n" for value in objects), compression)
    names = (json.dumps({"uid": f"l{i}", "title": name}) + "\n" for i, name in enumerate(raw.label_names))
    put(folder / "lbl.json", "".join(names), compression)


def write_pecos_tsv(folder, raw, compression):
    for split in SUFFIXES:
        lines = (f"{','.join(map(str, labels))}\t{text}\n" for text, labels in rows_of(raw, split))
        put(folder / f"{split}.tsv", "".join(lines), compression)
    put(folder / "output-labels.txt", "\n".join(raw.label_names), compression)


def write_pecos_matrix(folder, raw, compression):
    for split, suffix in SUFFIXES.items():
        put(folder / f"X.{suffix}.txt", "\n".join(raw.splits[split].texts), compression)
        put(folder / f"Y.{suffix}.npz", matrix_bytes(raw.splits[split].labels), compression)
    put(folder / "output-labels.txt", "\n".join(raw.label_names), compression)


def write_jsonl_names(folder, raw, compression):
    for split in SUFFIXES:
        objects = ({"text": text, "labels": [raw.label_names[label] for label in labels], "id": i}
                   for i, (text, labels) in enumerate(rows_of(raw, split)))  # fmt: skip
        put(folder / f"{split}.jsonl", "".join(json.dumps(value) + "\n" for value in objects), compression)


def write_csv_ids(folder, raw, compression):
    for split in SUFFIXES:
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(["n", "text", "labels"])
        for i, (text, labels) in enumerate(rows_of(raw, split)):
            writer.writerow([i, text, ",".join(map(str, labels))])
        put(folder / f"{split}.csv", stream.getvalue(), compression)
    put(folder / "labels.txt", "\n".join(raw.label_names), compression)


def write_parquet_names(folder, raw, compression):
    for split in SUFFIXES:
        rows = rows_of(raw, split)
        names = [[raw.label_names[label] for label in labels] for _, labels in rows]
        table = pa.table({"text": [text for text, _ in rows], "labels": names})
        for number, start in enumerate(range(0, len(rows), 100)):  # several parts, in the order of their names
            pq.write_table(table.slice(start, 100), folder / f"{split}-{number:03d}.parquet", compression="zstd")


WRITERS = {
    "xmc": [write_xmc_matrix, write_xmc_text], "lightxml": [write_lightxml], "lf": [write_lf],
    "pecos": [write_pecos_tsv, write_pecos_matrix], "jsonl": [write_jsonl_names], "csv": [write_csv_ids],
    "parquet": [write_parquet_names],
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(wordnet_slice):
    return read_source(SourceConfig(path=str(wordnet_slice)))


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("kind", "write"), [(kind, write) for kind, writes in WRITERS.items() for write in writes])
def test_what_was_written_comes_back(tmp_path, raw, kind, write, compression):
    write(tmp_path, raw, compression)
    source = SourceConfig(kind=kind, path=str(tmp_path), label_ids=kind == "csv")
    found = read_source(source)
    by_name = {name: label for label, name in enumerate(raw.label_names)}
    assert sorted(found.label_names) == sorted(raw.label_names)
    for split in SUFFIXES:
        renamed = [
            (text, sorted(by_name[found.label_names[label]] for label in labels))
            for text, labels in rows_of(found, split)
        ]
        assert renamed == rows_of(raw, split)
    files = source_facts(source)["files"]
    assert set(files) == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_raw_files_in_an_object_store_read_as_local_ones(tmp_path, raw, kind):
    import fsspec

    (write,) = WRITERS[kind]
    write(tmp_path, raw, ".gz")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), f"/raw-{kind}", recursive=True)
    remote = read_source(SourceConfig(kind=kind, path=f"memory://raw-{kind}"))
    assert rows_of(remote, "train") == rows_of(read_source(SourceConfig(kind=kind, path=str(tmp_path))), "train")


@pytest.mark.parametrize(("name", "is_read"), [
    ("validation.jsonl", True), ("valid.jsonl.gz", True), ("val-00.jsonl", True), ("dev.jsonl", True),
    ("values.jsonl", False), ("devices.jsonl", False), ("dev.csv", False),
])  # fmt: skip
def test_rows_of_a_file_called_after_validation_are_that_split(tmp_path, name, is_read):
    row = json.dumps({"text": "a", "labels": ["x"]})
    for file in ("train.jsonl", "test.jsonl"):
        put(tmp_path / file, row)
    compression = ".gz" if name.endswith(".gz") else ""
    put(tmp_path / name.removesuffix(".gz"), json.dumps({"text": "b", "labels": ["y"]}), compression)
    raw = read_source(SourceConfig(kind="jsonl", path=str(tmp_path)))
    assert raw.label_names == (["x", "y"] if is_read else ["x"])
    assert ("validation" in raw.splits) == is_read
    assert not is_read or rows_of(raw, "validation") == [("b", [1])]


def test_validation_texts_under_two_names_are_refused(tmp_path):
    for file in ("train.jsonl", "test.jsonl", "validation.jsonl", "dev.jsonl"):
        put(tmp_path / file, json.dumps({"text": "a", "labels": ["x"]}))
    with pytest.raises(DataError, match=r"dev\.jsonl.*like validation\.jsonl.*one name"):
        read_source(SourceConfig(kind="jsonl", path=str(tmp_path)))


def test_names_without_a_list_are_sorted_numbers_by_value(tmp_path):
    rows = [{"text": "a", "labels": [10, 9]}, {"text": "b", "labels": ["x", 9]}]
    for split in SUFFIXES:
        put(tmp_path / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    raw = read_source(SourceConfig(kind="jsonl", path=str(tmp_path)))
    assert raw.label_names == ["9", "10", "x"]
    assert rows_of(raw, "train") == [("a", [0, 1]), ("b", [0, 2])]


def test_a_csv_field_may_span_lines_and_later_rows_keep_their_lines(tmp_path):
    text = 'text,labels\n"one\ntwo",a\n"three, ""four""",b;a\n,a\n'
    for split in SUFFIXES:
        put(tmp_path / f"{split}.csv", text)
    source = SourceConfig(kind="csv", path=str(tmp_path), label_separator=";")
    with pytest.raises(DataError, match=r"train\.csv, line 5: an empty text"):
        read_source(source)
    assert rows_of(read_source(source, "skip"), "train") == [("one\ntwo", [0]), ('three, "four"', [0, 1])]


def test_filtered_pairs_are_no_labels_and_rows_left_bare_are_left_out(tmp_path, raw):
    write_lf(tmp_path, raw, ".gz")
    rows = rows_of(raw, "train")
    first, bare = rows[3][1][0], rows[5][1]
    put(tmp_path / "filter_labels_train.txt", "".join(f"{row} {label}\n" for row, label in
                                                       [(3, first), *((5, label) for label in bare)]))  # fmt: skip
    found = rows_of(read_source(SourceConfig(kind="lf", path=str(tmp_path))), "train")
    assert found == [*rows[:3], (rows[3][0], rows[3][1][1:]), rows[4], *rows[6:]]


def damage(lines, row, replacement):
    lines[row] = replacement if isinstance(replacement, bytes) else replacement.encode()


BROKEN = [
    ("lightxml", "train_texts.txt", b"caf\xe9", "not valid UTF-8"),
    ("lightxml", "train_texts.txt", "  ", "an empty text"),
    ("lightxml", "train_labels.txt", "", "this row has no label"),
    ("lf", "trn.json", '{"title": "x", "target_ind": [1', "not an object with title and target_ind"),
    ("lf", "trn.json", '{"title": "x", "target_ind": [9999]}', "label id out of range: 9999"),
    ("lf", "trn.json", '{"uid": "train0", "title": "x", "target_ind": [1]}', "a key seen before: train0"),
    ("pecos", "train.tsv", "1,2 no tab", "not label ids, a tab and a text"),
    ("pecos", "train.tsv", "1,x\ttext", "not label ids, a tab and a text"),
    ("pecos", "train.tsv", "-3\ttext", "label id out of range: -3"),
    ("jsonl", "train.jsonl", "{", "not valid JSON"),
    ("jsonl", "train.jsonl", "[1]", "not a JSON object"),
    ("jsonl", "train.jsonl", '{"labels": ["a"], "id": 1}', "no text in 'text'"),
    ("jsonl", "train.jsonl", '{"text": 3, "labels": ["a"], "id": 1}', "'text' is not a string"),
    ("jsonl", "train.jsonl", '{"text": "a", "labels": {"a": 1}, "id": 1}', "'labels' holds no labels: {'a': 1}"),
    ("jsonl", "train.jsonl", '{"text": "a", "labels": ["a"]}', "no key in 'id'"),
    ("jsonl", "train.jsonl", '{"text": "a", "labels": ["entity.n.00001740"], "id": 0}', "a key seen before: 0"),
    ("csv", "train.csv", b'7,caf\xe9,"1,2"', "not valid UTF-8"),
    ("csv", "train.csv", "7,only two", "the number of columns differs"),
    ("csv", "train.csv", '7,text,"1,9999"', "label id out of range: 9999"),
    ("csv", "train.csv", '7,text,"1,unknown"', "'labels' holds a label that is not an id: 'unknown'"),
]


@pytest.mark.parametrize(("kind", "file", "replacement", "problem"), BROKEN)
def test_a_broken_row_is_refused_by_file_and_line_or_skipped_and_counted(
    tmp_path, raw, kind, file, replacement, problem
):
    WRITERS[kind][0](tmp_path, raw, "")
    lines = (tmp_path / file).read_bytes().splitlines()
    damage(lines, 7, replacement)
    (tmp_path / file).write_bytes(b"\n".join(lines) + b"\n")
    source = SourceConfig(
        kind=kind, path=str(tmp_path), id_column="id" if kind == "jsonl" else "", label_ids=kind == "csv"
    )
    with pytest.raises(DataError, match=rf"{re.escape(file)}, line 8: .*{re.escape(problem)}"):
        read_source(source)

    reader = open_source(source)
    cleaner = Cleaner(len(reader.label_names()), "skip")
    blocks = list(read_blocks(reader, "train", 50, cleaner))
    row = 6 if kind == "csv" else 7
    assert [text for block in blocks for text in block.texts] == [
        text for i, (text, _) in enumerate(rows_of(raw, "train")) if i != row
    ]
    assert sum(cleaner.skipped.values()) == 1
    (reason,) = cleaner.skipped
    assert problem.split(":", maxsplit=1)[0] in reason


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_compressed_file_cut_off_is_refused_by_name(tmp_path, raw, compression):
    write_lightxml(tmp_path, raw, compression)
    file = tmp_path / f"train_texts.txt{compression}"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"train_texts\.txt{compression}: cannot be decompressed"):
        read_source(SourceConfig(kind="lightxml", path=str(tmp_path)))


def test_a_file_without_the_wanted_column_is_refused_with_its_columns(tmp_path, raw):
    write_csv_ids(tmp_path, raw, "")
    with pytest.raises(DataError, match=r"train\.csv, line 1: has no column 'body', only .* data\.source\.text_column"):
        read_source(SourceConfig(kind="csv", path=str(tmp_path), text_column="body"))
    write_parquet_names(tmp_path, raw, "")
    with pytest.raises(DataError, match=r"000\.parquet: has no column 'tags', only .* data\.source\.labels_column"):
        read_source(SourceConfig(kind="parquet", path=str(tmp_path), labels_column="tags"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"title": "x", "labels": ["a"]}', r"no text in 'text'; the row has 'title', 'labels'\. .*text_column"),
        ('{"text": "x", "tags": ["a"]}', r"'labels' holds no labels; the row has 'text', 'tags'\. .*labels_column"),
    ],
)
def test_an_object_without_the_wanted_column_is_refused_with_its_columns_and_the_setting(tmp_path, line, problem):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    with pytest.raises(DataError, match=rf"train\.jsonl, line 1: .*{problem}"):
        read_source(SourceConfig(kind="jsonl", path=str(tmp_path)))


def test_label_lines_that_run_out_are_refused(tmp_path, raw):
    write_lightxml(tmp_path, raw, "")
    file = tmp_path / "test_labels.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"test_texts\.txt: has more lines than .*test_labels\.txt"):
        read_source(SourceConfig(kind="lightxml", path=str(tmp_path)))


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 60), skip=st.sets(st.integers(0, 10), max_size=4))
def test_blocks_hold_all_rows_once_in_order_but_for_those_skipped(raw, wordnet_slice, rows, skip):
    reader = open_source(SourceConfig(path=str(wordnet_slice)))
    blocks = list(read_blocks(reader, "train", rows, Cleaner(len(raw.label_names), "refuse"), skip))
    expected = rows_of(raw, "train")
    numbers = [number for number in range(-(-240 // rows)) if number not in skip]
    assert [block.number for block in blocks] == numbers
    for block in blocks:
        own = expected[block.number * rows : (block.number + 1) * rows]
        assert block.first_row == block.number * rows
        assert block.texts == [text for text, _ in own]
        assert np.split(block.labels.values, block.labels.offsets[1:-1])[0].tolist() == own[0][1]
        assert block.labels.lengths.tolist() == [len(labels) for _, labels in own]


@settings(deadline=None, max_examples=60)
@given(content=st.text(alphabet="ab\n\r é\u2028", max_size=60), rows=st.integers(1, 5), skip=st.integers(0, 3))
def test_lines_are_cut_at_newlines_alone_whatever_the_chunks(tmp_path_factory, content, rows, skip):
    file = tmp_path_factory.mktemp("lines") / "x.txt"
    file.write_bytes(content.encode())
    chunks = list(read_lines(str(file), rows, skip))
    expected = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")] if content else []
    assert [line for chunk in chunks for line in chunk.lines] == expected[skip:]
    assert all(len(chunk.lines) == rows for chunk in chunks[:-1])
    assert [chunk.first for chunk in chunks] == [1 + skip + i * rows for i in range(len(chunks))]


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=8), max_size=8))
def test_seen_keys_are_what_a_set_would_have_seen(batches):
    keys, seen = SeenKeys(), set()
    for batch in batches:
        expected = []
        for place, key in enumerate(batch):
            if key in seen:
                expected.append(place)
            seen.add(key)
        assert keys.add(batch).tolist() == expected


def one_by_one(lines):
    """The labels of sparse lines, by Python's own numbers."""
    pairs = [[entry.split(":") for entry in line.split()] for line in lines]
    return [[int(label) for label, value in line if float(value) != 0] for line in pairs]


def rows_at_once(whole):
    return [part.tolist() for part in np.split(whole.values, whole.offsets[1:-1])]


VALUES = st.sampled_from(["0", "1", "12", "0.", "0.0", "00", "1.5", "0.25"])
SPARSE_ROWS = st.lists(st.lists(st.tuples(st.integers(0, 2**53), VALUES), max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=200)
@given(rows=SPARSE_ROWS, space=st.sampled_from([" ", "  ", "\t"]))
def test_sparse_lines_parsed_at_once_have_the_labels_of_each_line(rows, space):
    lines = [space.join(f"{label}:{value}" for label, value in row) for row in rows]
    whole = _parse_whole(lines)
    assert whole is not None or not any(rows)
    assert whole is None or rows_at_once(whole) == one_by_one(lines)


@settings(deadline=None, max_examples=200)
@given(place=st.integers(0, 13), character=st.sampled_from("0:. -x"))
def test_sparse_lines_with_a_changed_character_are_parsed_right_or_not_at_once(place, character):
    text = "3:1 12:0.5\n0:1"
    lines = (text[:place] + character + text[place + 1 :]).split("\n")
    whole = _parse_whole(lines)
    assert whole is None or rows_at_once(whole) == one_by_one(lines)
