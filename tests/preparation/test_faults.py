"""Preparation on full disks and failing stores: nothing is lost, and no incomplete data set is used.

The stores and disks are real. Oracle: the files that a preparation without faults writes.
"""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support import disks
from support.object_store import BUCKET, failing_proxy

from cxml.config import config_from_dict
from cxml.data import DataManifest, ShardedDataset, data_url
from cxml.errors import CxmlError, DataError, StorageError
from cxml.inspection.checks import validate
from cxml.preparation import is_prepared, prepare


@pytest.fixture
def make(tmp_path, wordnet_slice):
    def make_config(**data):
        source = {"path": str(wordnet_slice)}
        section = {"source": source, "max_length": 24, "shard_rows": 25, "engine": "local", **data}
        return config_from_dict({"auto": [], "output": str(tmp_path / "run"), "data": section})

    return make_config


def content_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 640 KiB."""
    with disks.small_disk(tmp_path / "small", "640k") as folder:
        yield folder


def test_a_full_disk_is_told_by_file_and_the_next_run_goes_on_when_there_is_room(make, small_disk, tmp_path):
    config = make(directory=str(small_disk / "data"))
    blocker = small_disk / "blocker"
    blocker.write_bytes(b"x" * 160_000)
    with pytest.raises(StorageError, match=r"No space left.*Free disk space"):
        prepare(config)
    assert not is_prepared(config)
    notes = (small_disk / "data").glob(".progress/train/shard-*.json")
    kept = {p: p.stat().st_mtime_ns for p in (small_disk / "data/train" / note.stem for note in notes)}
    assert kept
    blocker.unlink()
    prepare(config)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert content_of(data_url(config)) == content_of(prepare(make(directory=str(tmp_path / "clean"))))


def test_a_full_cache_disk_is_told_by_shard_and_the_variable_that_moves_it(make, small_disk, monkeypatch):
    url = prepare(make(directory="memory://full-cache"))
    monkeypatch.setenv("CXML_CACHE", str(small_disk))
    (small_disk / "blocker").write_bytes(b"x" * 620_000)
    with pytest.raises(StorageError, match=r"shard-\d+\.arrow: cannot be cached in .*No space left.*CXML_CACHE"):
        ShardedDataset(url, "train")
    assert not list(small_disk.glob("*.part"))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-8]), r"has \d+ bytes, but the manifest lists \d+"),
        (lambda file: file.write_bytes(file.read_bytes()[:999] + b"~" + file.read_bytes()[1000:]), "its checksum"),
        (lambda file: file.unlink(), "is listed in the manifest but missing"),
    ],
    ids=["truncated", "a flipped byte", "missing"],
)
def test_a_damaged_shard_is_named_with_the_remedy(make, damage, problem):
    url = prepare(make())
    damage(Path(url) / "train/shard-00003.arrow")
    with pytest.raises(DataError, match=rf"train/shard-00003\.arrow: {problem}.*prepare the data again"):
        validate(url)


def test_an_object_store_takes_and_gives_what_a_disk_does(make, store, use_store):
    use_store(store)
    local, remote = prepare(make()), prepare(make(directory=f"s3://{BUCKET}/plain"))
    assert DataManifest.read(remote) == DataManifest.read(local)
    validate(remote)
    rows = np.arange(240)
    assert ShardedDataset(remote, "train").texts(rows) == ShardedDataset(local, "train").texts(rows)


def test_a_store_that_fails_a_third_of_the_requests_loses_nothing(
    make, store, use_store, patient, wordnet_slice, tmp_path, monkeypatch
):
    use_store(store)
    fsspec.filesystem("s3").put(str(wordnet_slice), f"{BUCKET}/raw", recursive=True)
    local = prepare(make(shard_rows=100))
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "cache"))
    with failing_proxy(store, 1 / 3) as (port, failures):
        use_store(port)
        source = {"path": f"s3://{BUCKET}/raw"}
        remote = prepare(make(directory=f"s3://{BUCKET}/shaken", source=source, shard_rows=100))
        dataset = ShardedDataset(remote, "train")
        assert dataset.texts(np.arange(240)) == ShardedDataset(local, "train").texts(np.arange(240))
    assert failures.failed > 10
    assert 0.2 < failures.failed / (failures.failed + failures.passed) < 0.5
    assert DataManifest.read(local).splits == dataset.manifest.splits
    use_store(store)
    validate(remote)


def test_a_store_that_is_gone_is_told_by_url(make, store, use_store, tmp_path, monkeypatch):
    use_store(store)
    url = prepare(make(directory=f"s3://{BUCKET}/gone"))
    monkeypatch.setattr("cxml.storage.opening._ATTEMPTS", 2)
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with failing_proxy(store, 1.0) as (port, _):
        use_store(port)
        with pytest.raises(CxmlError, match=rf"s3://{BUCKET}/gone"):
            ShardedDataset(url, "train")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
