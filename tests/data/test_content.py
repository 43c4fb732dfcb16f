"""Shard contents are checked before use, once per node, and again when a file changes.

Properties: flipped bits, values out of range, compressed shards and special files are refused with the name of the
shard. Oracles: the bytes before the change, and manifests forged to fit a changed shard.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cxml.data import ShardCache, ShardedDataset, read_label_table
from cxml.data.cache import cache_folder
from cxml.errors import DataError


@pytest.fixture
def folder(make_data):
    return Path(make_data(25).url)


def shard(folder, number=1):
    return folder / f"train/shard-{number:05d}.arrow"


def forge(folder, table, number=1, **options):
    """Put a table in the place of a shard, with a manifest that fits it."""
    file = shard(folder, number)
    with pa.ipc.new_file(str(file), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum", None)
    content = file.read_bytes()
    manifest["splits"]["train"][number].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def with_values(table, name, change):
    """The table with a list column whose values are changed in place."""
    column = table.column(name).combine_chunks()
    values = column.values.to_numpy().copy()
    change(values)
    lists = pa.ListArray.from_arrays(column.offsets, pa.array(values, column.type.value_type), type=column.type)
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), lists)


def read(folder, number=1):
    return pa.ipc.open_file(shard(folder, number).read_bytes()).read_all()


USES = {
    "gather": lambda data: data.gather(np.array([12])),
    "texts": lambda data: data.texts(np.array([3])),
    "features": lambda data: data.features(np.array([3])),
    "examples": lambda data: data.examples(np.array([3])),
    "uids": lambda data: data.uids(),
    "column": lambda data: data.column("labels"),
    "labels_csr": lambda data: data.labels_csr(),
    "features_csr": lambda data: data.features_csr(),
}


@pytest.mark.parametrize("use", USES)
def test_no_value_of_a_damaged_shard_is_returned_whichever_row_is_asked_for(folder, use):
    content = bytearray(shard(folder).read_bytes())
    content[len(content) // 2] ^= 1
    shard(folder).write_bytes(content)
    data = ShardedDataset(str(folder), "train")
    with pytest.raises(DataError, match=r"shard-00001\.arrow: its checksum differs from the manifest"):
        USES[use](data)
    data.start_verification()
    with pytest.raises(DataError, match="checksum"):
        USES[use](data)


def test_every_flipped_bit_is_noticed(folder):
    rng = np.random.default_rng(0)
    sound = shard(folder).read_bytes()
    for place in rng.integers(0, 8 * len(sound), 60).tolist():
        content = bytearray(sound)
        content[place // 8] ^= 1 << place % 8
        shard(folder).write_bytes(content)
        with pytest.raises(DataError, match=r"shard-00001\.arrow"):
            ShardedDataset(str(folder), "train").gather(np.arange(25))
    shard(folder).write_bytes(sound)
    assert len(ShardedDataset(str(folder), "train").gather(np.arange(25))[0]) == 25


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("labels", 2147483647, r"labels are not all in 0\.\.49"),
        ("labels", 50, r"labels are not all in 0\.\.49"),
        ("labels", -2000000, r"labels are not all in 0\.\.49"),
        ("tfidf_indices", 2147483647, r"tfidf_indices are not all in 0\.\.29"),
        ("tfidf_indices", -2000000, r"tfidf_indices are not all in 0\.\.29"),
        ("tfidf_values", np.nan, "tfidf_values are not all finite"),
        ("tfidf_values", -np.inf, "tfidf_values are not all finite"),
        ("input_ids", -1, r"input_ids are not all in 0\.\.3999"),
        ("input_ids", 4000, r"input_ids are not all in 0\.\.3999"),
    ],
)
def test_a_value_out_of_range_is_refused_though_all_checksums_fit(folder, name, value, problem):
    def change(values):
        values[-1] = value

    forge(folder, with_values(read(folder), name, change))
    data = ShardedDataset(str(folder), "train")
    with pytest.raises(DataError, match=rf"split train, row 1\d: {problem}"):
        data.labels_csr()


def test_lists_of_different_lengths_are_refused_though_all_checksums_fit(folder):
    table = read(folder)
    indices, values = (table.column(name).combine_chunks() for name in ("tfidf_indices", "tfidf_values"))
    offsets = indices.offsets.to_numpy().copy()
    row = int(np.flatnonzero(np.diff(offsets))[0])
    offsets[row + 1 : -1] = np.maximum(offsets[row + 1 : -1] - 1, 0)
    shifted = pa.ListArray.from_arrays(pa.array(offsets), values.values, type=values.type)
    field = table.schema.get_field_index("tfidf_values")
    forge(folder, table.set_column(field, table.schema.field(field), shifted))
    with pytest.raises(DataError, match="tfidf_indices and tfidf_values differ in length"):
        ShardedDataset(str(folder), "train").features_csr()


def test_text_that_is_not_utf8_is_refused_though_all_checksums_fit(folder):
    content = bytearray(shard(folder).read_bytes())
    place = content.index("é".encode())
    content[place] = 0xFF
    shard(folder).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    manifest["splits"]["train"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="UTF8"):
        ShardedDataset(str(folder), "train").texts(np.array([0]))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_shard_is_refused_before_it_is_expanded(folder, compression):
    forge(folder, read(folder), compression=compression)
    with pytest.raises(DataError, match=r"shard-00001\.arrow: is broken \(a record batch is compressed\)"):
        ShardedDataset(str(folder), "train")


@pytest.mark.parametrize("special", ["link", "folder link", "pipe", "folder", "device"])
def test_only_regular_files_inside_the_folder_are_opened(folder, tmp_path, special):
    file = shard(folder)
    outside = file.rename(tmp_path / "outside.arrow")
    if special == "link":
        file.symlink_to(outside)
    elif special == "folder link":
        outside.rename(file)
        folder.joinpath("train").rename(tmp_path / "elsewhere")
        folder.joinpath("train").symlink_to(tmp_path / "elsewhere")
    elif special == "pipe":
        os.mkfifo(file)
    elif special == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"is a (link|pipe|folder), expected a regular (file|folder)"):
        ShardedDataset(str(folder), "train")


def test_a_manifest_that_is_a_pipe_is_refused_instead_of_waited_for(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json is a pipe"):
        ShardedDataset(str(folder), "train")


def test_a_shard_replaced_after_opening_does_not_change_what_is_read(folder):
    data = ShardedDataset(str(folder), "train")
    before = data.texts(np.arange(25))
    other = bytearray(shard(folder).read_bytes())
    other[-500:] = b"\1" * 500
    shard(folder).with_suffix(".new").write_bytes(other)
    shard(folder).with_suffix(".new").replace(shard(folder))
    assert data.texts(np.arange(25)) == before
    with pytest.raises(DataError, match="checksum"):
        ShardedDataset(str(folder), "train").texts(np.arange(25))


def make_old(folder):
    """Wait until no file of the folder is so new that its times do not tell of a change."""
    import time

    newest = max(file.stat().st_ctime for file in folder.rglob("*.arrow"))
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def notes():
    return {path.name: path.stat().st_mtime_ns for path in (cache_folder() / "verified").glob("*") if not path.suffix}


def test_files_are_read_once_per_node_until_one_changes(folder, monkeypatch):
    make_old(folder)
    before = set(notes())
    ShardedDataset(str(folder), "train").uids()
    assert len(set(notes()) - before) == 1
    read_from = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read_from.append(args) or pread(*args))
    ShardedDataset(str(folder), "train").uids()
    assert read_from == []
    content = bytearray(shard(folder).read_bytes())
    times = shard(folder).stat()
    content[-600] ^= 1
    shard(folder).write_bytes(content)
    os.utime(shard(folder), ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(DataError, match="checksum"):
        ShardedDataset(str(folder), "train").uids()
    assert len(set(notes()) - before) == 1


def test_nothing_is_noted_where_there_is_no_place_for_it(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "file"))
    assert len(ShardedDataset(str(folder), "train").uids()) == 25


def test_a_damaged_copy_in_the_cache_is_noticed_and_named(write_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "cache"))
    write_data("memory://content-test", 20, shard_rows=20)
    assert len(ShardedDataset("memory://content-test", "train").uids()) == 20
    (copy,) = (tmp_path / "cache").glob("*.arrow")
    content = bytearray(copy.read_bytes())
    content[-600] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match=rf"shard-00000\.arrow: .* Delete its copy {copy}"):
        ShardedDataset("memory://content-test", "train").uids()
    copy.unlink()
    assert len(ShardedDataset("memory://content-test", "train").uids()) == 20


def test_a_cached_file_evicted_between_its_fetch_and_its_use_is_still_read(write_data, tmp_path, monkeypatch):
    write_data("memory://evicted", 20, shard_rows=10)
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "cache"))
    fetch = ShardCache.fetch

    def fetch_and_evict(self, url, shards):
        streams = fetch(self, url, shards)
        for copy in (tmp_path / "cache").glob("*.arrow"):
            copy.unlink()
        return streams

    monkeypatch.setattr(ShardCache, "fetch", fetch_and_evict)
    assert ShardedDataset("memory://evicted", "train").uids().tolist() == list(range(20))


def test_impossible_frequencies_are_refused(make_data):
    url = make_data(25).url
    file = Path(url) / "labels.arrow"
    table = pa.ipc.open_file(file.read_bytes()).read_all()
    frequency = table.column("train_frequency").to_numpy().copy()
    frequency[7] = -3
    changed = table.set_column(1, table.schema.field(1), pa.array(frequency))
    with pa.ipc.new_file(str(file), changed.schema) as writer:
        writer.write_table(changed)
    with pytest.raises(DataError, match=r"labels\.arrow: its checksum"):
        read_label_table(url)
    manifest = json.loads((Path(url) / "manifest.json").read_text())
    manifest.pop("checksum")
    manifest["labels"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (Path(url) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="train_frequency is out of range"):
        read_label_table(url)
