"""The manifest of a data set reads back equal; wrong fields, versions and file names are refused with the remedy.

Oracle: the manifest that the writer wrote, with one change at a time.
"""

import json
from pathlib import Path

import pytest

from cxml.data import DataManifest
from cxml.errors import DataError


@pytest.fixture
def folder(make_data):
    return Path(make_data(25).url)


def edit(folder, change):
    values = json.loads((folder / "manifest.json").read_text())
    values.pop("checksum")  # as written by earlier releases
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def test_a_manifest_comes_back_equal(folder):
    manifest = DataManifest.read(str(folder))
    manifest.write(str(folder / "copy"))
    assert DataManifest.read(str(folder / "copy")) == manifest
    assert manifest.rows("train") == 25
    assert [shard.rows for shard in manifest.splits["train"]] == [10, 10, 5]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "train/../../x.arrow", "s3://other/x.arrow", "train//x.arrow", "", ".", "a\\b",
     "train/.hidden", "train/"],
)  # fmt: skip
def test_a_shard_name_that_leaves_the_folder_is_refused(folder, name):
    edit(folder, lambda values: values["splits"]["train"][0].update(file=name))
    with pytest.raises(DataError, match="is not a plain path inside the folder"):
        DataManifest.read(str(folder))


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused_by_its_number(folder, version):
    edit(folder, lambda values: values.update(version=version))
    with pytest.raises(DataError, match=f"version is {version!r}, but this version of cxml reads 1"):
        DataManifest.read(str(folder))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda v: v.pop("fingerprint"), "fingerprint"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v.update(num_labels="50"), "num_labels"),
        (lambda v: v["splits"]["train"][0].update(rows=2.5), "rows"),
        (lambda v: v.update(num_labels=51), "num_labels is 51"),
        (lambda v: v["splits"]["train"][0].update(rows=-1), "rows is out of range"),
        (lambda v: v["splits"]["train"][0].update(sha256="ab"), "sha256 is not a valid value"),
        (lambda v: v["splits"]["train"][0].update(file="labels.arrow"), "listed twice"),
        (lambda v: v.update(splits={}), "train split is missing"),
        (lambda v: v["tokenizer"].update(pad_id=4000), "pad_id"),
    ],
)
def test_a_wrong_field_is_refused_with_the_file_and_the_remedy(folder, change, problem):
    edit(folder, change)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{problem}.*prepare the data again"):
        DataManifest.read(str(folder))


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_manifest_that_is_no_json_object_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        DataManifest.read(str(folder))
