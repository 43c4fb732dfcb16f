"""Text files as people and programs write them are read as meant, or refused with file and line, in every locale.

Oracle: the texts, labels and names that were written.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from support.datasets import write_dataset

from cxml.config import SourceConfig
from cxml.errors import DataError
from cxml.formats import TextSource, read_source, read_texts

JSONL = ['{"text": "one", "labels": ["a"]}', '{"text": "two", "labels": ["a", "b"]}']
CSV = ["text,labels", "one,a", '"two","a,b"']
LF = ['{"title": "one", "target_ind": [0]}', '{"title": "two", "target_ind": [0, 1]}']
NAMES = ['{"title": "a"}', '{"title": "b"}']
READ = [["one", "two"], [[0], [0, 1]], ["a", "b"]]


def read(folder, kind, content, on_error="refuse"):
    """Texts, labels and names of a source whose splits are `content`."""
    for name in ("trn.json", "tst.json") if kind == "lf" else (f"train.{kind}", f"test.{kind}"):
        (folder / name).write_bytes(content)
    if kind == "lf":
        (folder / "lbl.json").write_text("\n".join(NAMES) + "\n\n")
    raw = read_source(SourceConfig(kind=kind, path=str(folder)), on_error)
    train = raw.splits["train"]
    return [train.texts, [train.labels[i].indices.tolist() for i in range(len(train.texts))], raw.label_names]


LINES = {"jsonl": JSONL, "csv": CSV, "lf": LF}
ENDINGS = {
    "newline": ("\n", "\n"), "no end": ("\n", ""), "CRLF": ("\r\n", "\r\n"), "CR": ("\r", "\r"),
    "CR, no end": ("\r", ""),
    "a blank line": ("\n", "\n\n"), "many blank lines": ("\n", "\n\n\n\n\n"), "blanks": ("\n", "\n  \n\t\n  "),
    "blank CRLF lines": ("\r\n", "\r\n\r\n\r\n"), "blank CR lines": ("\r", "\r\r\r"),
}  # fmt: skip


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", LINES)
def test_ends_of_lines_blank_last_lines_and_byte_order_marks_do_not_matter(tmp_path, kind, ending, mark):
    between, last = ENDINGS[ending]
    assert read(tmp_path, kind, (mark + between.join(LINES[kind]) + last).encode()) == READ


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_ends_of_lines_do_not_matter_in_files_to_predict(tmp_path, form, ending):
    between, last = ENDINGS[ending]
    file = tmp_path / f"texts.{form}"
    file.write_bytes((between.join(LINES[form]) + last).encode())
    (chunk,) = read_texts(TextSource(url=str(file)), 10)
    assert chunk.texts == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.txt", b""), ("t.jsonl", b""), ("t.jsonl", b"\n"), ("t.ndjson", b""), ("t.json", b"[]"), ("t.json", b""),
     ("t.csv", b"text\n")],
)  # fmt: skip
def test_a_file_without_rows_to_predict_holds_no_texts(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(read_texts(TextSource(url=str(tmp_path / name)), 10)) == []


@pytest.mark.parametrize("kind", LINES)
def test_a_blank_line_between_rows_is_refused_with_its_line_or_skipped(tmp_path, kind):
    *before, last = LINES[kind]
    content = "\n".join([*before, "", "", last]).encode()
    with pytest.raises(DataError, match=rf"(train|trn)\.\w+, line {len(before) + 1}: "):
        read(tmp_path, kind, content)
    assert read(tmp_path, kind, content, "skip") == READ


@pytest.mark.parametrize("size", [131_071, 131_072, 131_073, 3_000_000])
def test_a_csv_field_may_be_as_long_as_a_line(tmp_path, size):
    text = "x y " * (size // 4) + "z" * (size % 4)
    texts, _, _ = read(tmp_path, "csv", f'text,labels\n"{text}",a\nshort,b\n'.encode())
    assert texts == [text, "short"]
    (chunk,) = read_texts(TextSource(url=str(tmp_path / "train.csv")), 10)
    assert chunk.texts == [text, "short"]


@pytest.mark.parametrize(
    "rows", [b'"one,a\ntwo,b\n', b'one,a\n"two" more,b\n', b"one,a,b\n", b"one\n", b"one\rtwo,a\n", b'one,"a\n']
)
def test_broken_csv_is_refused_with_its_line(tmp_path, rows):
    with pytest.raises(DataError, match=r"train\.csv, line [34]: "):
        read(tmp_path, "csv", b"text,labels\nsound,c\n" + rows)
    with pytest.raises(DataError, match=r"train\.csv, line [34]: "):
        list(read_texts(TextSource(url=str(tmp_path / "train.csv")), 10))


@pytest.mark.parametrize("header", ["", "a,b", '"text,labels', "text,text,labels", '"text"x,labels', "caf\xe9,labels"])
def test_a_broken_line_of_column_names_is_refused(tmp_path, header):
    with pytest.raises(DataError, match=r"train\.csv, line 1: "):
        read(tmp_path, "csv", f"{header}\none,a\n".encode("latin-1"))


SURROGATES = ["\\ud800", "\\udfff", "a\\ud83dz", "\\ude00\\ud83d", "\\uDC80"]


@pytest.mark.parametrize("half", SURROGATES)
@pytest.mark.parametrize("field", ["text", "labels", "id"])
def test_half_a_surrogate_pair_is_refused_with_its_line_or_skipped(tmp_path, field, half):
    row = {"text": '"t"', "labels": '["a"]', "id": '"k"'}
    row[field] = f'["{half}"]' if field == "labels" else f'"{half}"'
    broken = "{" + ", ".join(f'"{name}": {value}' for name, value in row.items()) + "}"
    content = "\n".join([JSONL[0].replace("}", ', "id": 1}'), broken]).encode()
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(content)
    source = SourceConfig(kind="jsonl", path=str(tmp_path), id_column="id")
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: not valid JSON \(.*surrogates not allowed"):
        read_source(source)
    assert read_source(source, "skip").splits["train"].texts == ["one"]
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: not valid JSON"):
        list(read_texts(TextSource(url=str(tmp_path / "train.jsonl"), id_column="id"), 10))


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    texts, _, names = read(tmp_path, "jsonl", rb'{"text": "\ud83d\ude00", "labels": ["\ud83d\ude00", "\u0000"]}')
    assert (texts, names) == (["😀"], ["\0", "😀"])


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_refused_with_file_and_remedy(tmp_path, kind, encoding):
    with pytest.raises(DataError, match=r"(train|trn)\.\w+, line 1: .*iconv"):
        read(tmp_path, kind, ("\n".join(LINES[kind]) + "\n").encode(encoding), "skip")


def test_utf_16_with_a_mark_is_named(tmp_path):
    for order in ("le", "be"):
        file = tmp_path / "texts.txt"
        file.write_bytes(("\ufeff" + "中文\n").encode(f"utf-16-{order}"))
        with pytest.raises(DataError, match="UTF-16 or UTF-32, according to its byte order mark"):
            list(read_texts(TextSource(url=str(file)), 10))


def test_a_nul_in_a_text_is_a_character(tmp_path):
    assert read(tmp_path, "csv", b"text,labels\nwith a \0 inside,a\n")[0] == ["with a \0 inside"]
    (tmp_path / "texts.txt").write_bytes(b"with a \0 inside\n")
    (chunk,) = read_texts(TextSource(url=str(tmp_path / "texts.txt")), 10)
    assert chunk.texts == ["with a \0 inside"]


REPORT = {
    "level_sizes": [2, 3], "levels": [{"P@1": 70.0}, {"P@1": 60.0}],
    "examples": [{"text": "café 中文 😀 ±", "true": ["été", "名"], "predicted": [{"label": "名", "score": 0.5}]}],
}  # fmt: skip
LOCALES = {
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "ASCII by the locale alone": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}


def run(locale, code, *arguments):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    environment = {**kept, "PYTHONPATH": str(Path.cwd()), **LOCALES[locale]}
    command = [sys.executable, "-c", code, *arguments] if code else [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


SHOW = """
import json, sys
from dataclasses import dataclass
from cxml.cli import run_tool

@dataclass
class Command:
    folder: str

def show(command):
    from cxml.report import print_report, write_page
    report = json.load(open(command.folder + "/in.json"))
    print_report(report)
    write_page(command.folder, report, "output: runs/x")

sys.exit(run_tool(Command, show, "show"))
"""


@pytest.mark.parametrize("locale", LOCALES)
def test_no_locale_fails_the_end_of_a_run(tmp_path, locale):
    (tmp_path / "in.json").write_text(json.dumps(REPORT))
    done = run(locale, SHOW, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    shown = done.stdout.decode(LOCALES[locale].get("PYTHONIOENCODING", "ascii"))
    assert ("名" if locale == "UTF-8" else "\\u540d") in shown
    assert "名" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_data_set_is_inspected_in_an_ascii_locale(tmp_path):
    matrix = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    url = write_dataset(tmp_path / "data", {"train": (matrix, matrix)}, names=["名", "été"])
    done = run("ASCII", None, "cxml.data_tools.inspect", url)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u540d" in done.stdout


def test_a_name_that_the_locale_cannot_express_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"output: {tmp_path}/été\ndata: {{source: {{kind: icd10cm}}}}\n", encoding="utf-8")
    done = run("ASCII by the locale alone", None, "cxml.train", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr.startswith(b"StorageError: ") or b"\nStorageError: " in done.stderr
    assert b"Use a UTF-8 locale" in done.stderr
    assert b"Traceback" not in done.stderr
