"""Paths with special characters name exactly one file or folder, on every kind of store.

Oracle: the files that were written, listed again, with neighbours that a pattern would match.
"""

import hashlib
import http.server
import threading
import uuid
import zipfile
from functools import partial

import pytest
from support.object_store import BUCKET

from cxml import storage, urls
from cxml.errors import StorageError
from cxml.formats.files import file_facts, find_splits, read_content

NAMES = [
    "run[12]", "run[!1]", "[v1]", "a [v1]", "run*", "*", "run?", "r**n", "{run,b}", "run{1..3}", "a#b", "a%20b",
    "a%2Fb", "a b", " a", "a::b", "zip::b", "~", "~root", "$HOME", "${HOME}", "%HOME%", "ärger", "日本", "a'b", 'a"b',
    "a;b", "a&b", "a=b", "a+b", "a,b", "a@b", "u:p@b", "a!b", "(a)", "a|b", "a^b", "-rf", "a\\b", "file:a", "local:a",
    "a:b", ".a", "...", "e\u0301", "\U0001f600",
]  # fmt: skip
NEIGHBOURS = ["run1", "run2", "r", "v", "a v", "b", "root", "rn", "run{1", "1"]
KINDS = {
    "disk": NAMES,
    "memory": [name for name in NAMES if "::" not in name],  # fsspec gives it another meaning there
    "s3": ["run[12]", "a [v1]", "*", "run?", "{run,b}", "a#b", "a%20b", "a::b", "~", "$HOME", "日本", "a+b&c=d"],
}


@pytest.fixture(params=list(KINDS))
def base(request, tmp_path):
    """A new folder on each kind of store."""
    if request.param == "disk":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    request.getfixturevalue("use_store")(request.getfixturevalue("store"))
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder on each kind of store for all names: what one leaves or deletes is seen by the next."""
    return {"disk": str(tmp_path_factory.mktemp("names")), "memory": "memory://names", "s3": f"s3://{BUCKET}/names"}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_a_name_is_never_a_pattern(request, shared, kind, name):
    if kind == "s3":
        request.getfixturevalue("use_store")(request.getfixturevalue("store"))
    base = shared[kind]
    if not storage.list_folders(base):
        for each in NEIGHBOURS:
            storage.write_atomic(storage.join(base, each, "sub", "one.json"), b"x")
    neighbours = {f"{each}/sub/one.json": 1 for each in NEIGHBOURS}
    folder, contents = storage.join(base, name), {"sub/one.json": b"one", f"sub/{name}.json": b"other"}
    for file, content in contents.items():
        storage.write_atomic(storage.join(folder, file), content)
    inside = storage.join(folder, "sub")

    assert storage.exists(folder)
    assert storage.file_sizes(folder) == {file: len(content) for file, content in contents.items()}
    assert storage.read_small_files(folder, ".json") == contents
    assert storage.read_bytes(storage.join(inside, f"{name}.json")) == b"other"
    assert storage.list_files(inside, name) == [storage.join(inside, f"{name}.json")]
    assert storage.list_folders(folder) == ["sub"]
    assert name in storage.list_folders(base)
    assert storage.size(storage.join(inside, f"{name}.json")) == 5
    assert storage.sha256(storage.join(inside, "one.json")) == hashlib.sha256(b"one").hexdigest()
    with storage.open_read(storage.join(inside, "one.json")) as stream:
        assert stream.read() == b"one"
    with pytest.raises(FileExistsError):
        storage.create(storage.join(inside, f"{name}.json"), b"new")

    storage.remove(storage.join(inside, f"{name}.json"))
    assert storage.file_sizes(folder) == {"sub/one.json": 3}
    storage.remove(folder)
    assert not storage.exists(folder)
    assert storage.file_sizes(base) == neighbours


def test_a_folder_that_is_not_there_deletes_nothing_that_it_would_match(base):
    for name in ("run1", "run2"):
        storage.write_atomic(storage.join(base, name, "file"), b"x")
    for pattern in ("run[12]", "*", "run?/file"):
        storage.remove(storage.join(base, pattern))
        assert not storage.exists(storage.join(base, pattern))
        assert storage.list_files(storage.join(base, pattern)) == []
    assert storage.file_sizes(base).keys() == {"run1/file", "run2/file"}


@pytest.mark.parametrize("name", ["a", "a [v1]", "*"])
def test_a_slash_at_the_end_changes_nothing(base, name):
    storage.write_atomic(storage.join(base, name, "file"), b"x")
    slashed = storage.join(base, name) + "/"
    assert storage.exists(slashed)
    assert storage.file_sizes(slashed) == {"file": 1}
    assert storage.list_folders(storage.join(base, "")) == [name]
    assert storage.read_bytes(storage.join(slashed, "file")) == b"x"
    storage.remove(slashed)
    assert not storage.exists(slashed)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("~", "~root", "zip::b")])
def test_a_relative_path_lies_in_the_working_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    storage.write_atomic(storage.join(name, "file"), b"x")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [f"{name}/file"]
    assert storage.local_path(name) == tmp_path / name
    storage.remove(name)
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_at_the_start_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write_atomic("~/runs/file", b"x")
    assert storage.local_path("~/runs") == tmp_path / "runs"
    assert storage.file_sizes("~/runs") == {"file": 1}


@pytest.mark.parametrize("name", ["br[v1]", "a b", "日本", "a#b", "x*"])
def test_the_files_of_a_source_are_found_in_a_folder_of_any_name(base, name):
    folder = storage.join(base, name)
    for file in ("train-1.jsonl", "train-2.jsonl", "test.jsonl"):
        storage.write_atomic(storage.join(folder, file), file.encode())
    storage.write_atomic(storage.join(base, "brv", "train-3.jsonl"), b"not this one")
    parts = find_splits(folder, ".jsonl")["train"]
    assert parts == [storage.join(folder, file) for file in ("train-1.jsonl", "train-2.jsonl")]
    assert file_facts(folder, parts)["files"].keys() == {"train-1.jsonl", "train-2.jsonl"}
    assert b"".join(read_content(parts[1])) == b"train-2.jsonl"


@pytest.fixture
def archive(tmp_path):
    """A zip file in a folder that could be a pattern, with a folder that could be one."""
    path = tmp_path / "br[v1]" / "raw data.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for name in ("train.jsonl", "train.jsonl2", "test.jsonl", "deep/test.jsonl"):
            file.writestr(f"in [1]/{name}", f"in [1]/{name}")
        file.writestr("in 1/train.jsonl", "in 1/train.jsonl")
    return path


def test_a_path_is_appended_to_the_first_path_of_a_chain(archive):
    root = f"zip://in [1]::{archive}"
    file = storage.join(root, "train.jsonl")
    assert file == f"zip://in [1]/train.jsonl::{archive}"
    assert storage.read_bytes(file) == b"in [1]/train.jsonl"
    assert storage.file_sizes(root).keys() == {"train.jsonl", "train.jsonl2", "test.jsonl", "deep/test.jsonl"}
    assert find_splits(root, ".jsonl")["train"] == [file]
    assert storage.list_files(f"zip::{archive}") == []
    assert storage.list_folders(f"zip::{archive}") == ["in 1", "in [1]"]
    assert storage.read_bytes(storage.join(f"zip::{archive}", "in 1", "train.jsonl")) == b"in 1/train.jsonl"
    assert storage.read_small_files(root, ".jsonl")["deep/test.jsonl"] == b"in [1]/deep/test.jsonl"


def test_an_archive_that_is_missing_or_none_is_refused_with_its_name(tmp_path):
    (tmp_path / "none.zip").write_bytes(b"no archive")
    for chain in (f"zip://a.txt::{tmp_path}/nowhere.zip", f"zip://a.txt::{tmp_path}/none.zip",
                  f"tar://a.txt::{tmp_path}/nowhere.tar", f"tar://a.txt::{tmp_path}/none.zip"):  # fmt: skip
        with pytest.raises(StorageError, match=r"(?s)^\w+://a.txt::.*Check the URL"):
            storage.exists(chain)


def test_a_file_below_another_file_cannot_be_written_and_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"as before")
    for name in ("file/x.json", "file/deep/x.json"):
        with pytest.raises(StorageError, match=rf"{name}: .*Check the path"):
            storage.write_atomic(f"{tmp_path}/{name}", b"x")
    assert (tmp_path / "file").read_bytes() == b"as before"


@pytest.fixture
def web(tmp_path):
    """A web server of the folder `tmp_path`."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_query_of_a_web_address_stays_at_its_end(web, archive):
    folder = f"{web}/br[v1]?sig=abc"
    assert storage.join(folder, "raw data.zip") == f"{web}/br[v1]/raw data.zip?sig=abc"
    assert storage.read_bytes(storage.join(folder, "raw data.zip")) == archive.read_bytes()
    assert not storage.exists(storage.join(folder, "other.zip"))
    inside = f"zip://in [1]::simplecache::{web}/br[v1]/raw data.zip?sig=abc"
    assert storage.read_bytes(storage.join(inside, "train.jsonl")) == b"in [1]/train.jsonl"
    cached = f"simplecache::{web}/br[v1]?sig=abc"
    assert storage.join(cached, "x") == f"simplecache::{web}/br[v1]/x?sig=abc"
    assert storage.read_bytes(storage.join(cached, "raw data.zip")) == archive.read_bytes()
    assert urls.path_of(storage.join(folder, "a.jsonl.gz")).endswith("br[v1]/a.jsonl.gz")


def test_a_relative_path_without_a_working_folder_is_refused_and_an_absolute_one_is_not(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match="the working directory was deleted"):
        storage.exists("data")
    assert storage.exists(str(tmp_path))
