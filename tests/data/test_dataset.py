"""The sharded data set returns the written rows in any order and refuses damaged shards by name.

Oracle: the rows that the writer was given, as plain Python lists (hypothesis draws the indices).
"""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.data import (
    DataManifest,
    DatasetWriter,
    Examples,
    Ragged,
    ShardedDataset,
    read_label_table,
    schema,
    verify,
    writer,
)
from cxml.errors import DataError, StaleArtefactError

NUM_LABELS, NUM_FEATURES = 50, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_data):
    return write_data(str(tmp_path_factory.mktemp("data")), 95, shard_rows=10)


def to_lists(ragged):
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)]


@settings(deadline=None, max_examples=60)
@given(indices=st.lists(st.integers(0, 94), max_size=40))
def test_gather_gives_the_written_rows_in_the_asked_order_with_repeats(data, indices):
    input_ids, labels = ShardedDataset(data.url, "train").gather(np.array(indices, np.int64))
    assert to_lists(input_ids) == [data.input_ids[i] for i in indices]
    assert to_lists(labels) == [data.labels[i] for i in indices]
    assert input_ids.values.dtype == labels.values.dtype == np.int32


def test_rows_of_many_record_batches_in_one_shard_are_gathered_right(make_data, monkeypatch):
    monkeypatch.setattr("cxml.data.writer._ROWS_PER_RECORD_BATCH", 3)
    data = make_data(25)
    indices = np.random.default_rng(0).permutation(25)
    dataset = ShardedDataset(data.url, "train")
    assert to_lists(dataset.gather(indices)[0]) == [data.input_ids[i] for i in indices]
    assert dataset.texts(indices) == [data.texts[i] for i in indices]


@pytest.mark.parametrize("text", [schema.TEXT, schema.EARLIER_TEXT])
def test_texts_of_this_and_of_earlier_releases_read_alike(make_data, monkeypatch, text):
    monkeypatch.setattr("cxml.data.writer.TEXT", text)
    data = make_data(25)
    file = Path(data.url) / "train" / "shard-00000.arrow"
    assert pa.ipc.open_file(pa.memory_map(str(file))).schema.field("text").type == text
    dataset = ShardedDataset(data.url, "train")
    assert dataset.texts(np.arange(25)) == data.texts
    assert dataset.examples(np.arange(25)).texts == data.texts


def test_shards_of_both_may_lie_in_one_data_set(make_data, monkeypatch):
    """A preparation that an earlier release began."""
    types = iter([schema.EARLIER_TEXT, schema.TEXT, schema.TEXT])
    to_table = writer._to_table

    def write(*arguments):
        monkeypatch.setattr(writer, "TEXT", next(types))
        return to_table(*arguments)

    monkeypatch.setattr(writer, "_to_table", write)
    data = make_data(25)
    assert ShardedDataset(data.url, "train").texts(np.arange(25)) == data.texts


@pytest.mark.slow  # 10 GiB of memory
def test_a_record_batch_holds_more_than_two_gibibytes_of_texts(tmp_path):
    texts = ["x" * (1 << 27)] * 17
    rows = Ragged(np.ones(17, np.int32), np.arange(18))
    examples = Examples(rows, rows, sparse.csr_matrix((17, 3), dtype=np.float32), texts)
    info = writer.write_shard(str(tmp_path), "train/shard-00000.arrow", examples, 0)
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / info.file))).read_all()
    assert [len(text) for text in table["text"].to_pylist()] == [1 << 27] * 17


def test_matrices_hold_the_written_labels_and_features(data):
    dataset = ShardedDataset(data.url, "train")
    dense = np.zeros((95, NUM_LABELS), np.float32)
    for row, labels in enumerate(data.labels):
        dense[row, labels] = 1
    assert len(dataset) == 95
    np.testing.assert_array_equal(dataset.labels_csr().toarray(), dense)
    assert dataset.features_csr().shape == (95, NUM_FEATURES)
    np.testing.assert_array_equal(dataset.features_csr().toarray(), data.features.toarray())
    assert dataset.lengths.tolist() == [len(row) for row in data.input_ids]


def test_labels_come_back_with_their_frequencies(data):
    labels = read_label_table(data.url)
    names, frequency = labels.names, labels.frequency
    assert names == [f"label {i}" for i in range(NUM_LABELS)]
    assert frequency.tolist() == [sum(label in row for row in data.labels) for label in range(NUM_LABELS)]


def test_local_shards_are_memory_mapped_not_copied(make_data):
    data = make_data(2000, shard_rows=2000)
    before = pa.total_allocated_bytes()
    dataset = ShardedDataset(data.url, "train")
    dataset.gather(np.arange(10))
    assert pa.total_allocated_bytes() == before


def test_shards_in_an_object_store_read_as_local_ones(write_data):
    data = write_data("memory://bucket/data", 25, shard_rows=10)
    indices = np.array([24, 0, 11])
    dataset = ShardedDataset(data.url, "train")
    assert to_lists(dataset.gather(indices)[0]) == [data.input_ids[i] for i in indices]
    assert read_label_table(data.url).names[3] == "label 3"
    verify(data.url)
    fsspec.filesystem("memory").pipe_file("/bucket/data/train/shard-00001.arrow", b"short")
    with pytest.raises(DataError, match=r"shard-00001.arrow: has 5 bytes"):
        verify(data.url)


def test_texts_left_out_are_refused_with_the_setting_to_change(make_data):
    data = make_data(5, keep_text=False)
    with pytest.raises(DataError, match=r"data\.keep_text: true"):
        ShardedDataset(data.url, "train").texts(np.array([0]))


def test_an_unknown_split_is_refused_with_the_known_ones(data):
    with pytest.raises(DataError, match=r"no split 'dev'.*Its splits: train"):
        ShardedDataset(data.url, "dev")


def test_a_truncated_shard_is_named_when_the_data_set_is_opened(make_data):
    data = make_data(25)
    shard = Path(data.url) / "train/shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(
        DataError, match=r"shard-00001\.arrow: has \d+ bytes, but the manifest lists \d+.*prepare the data"
    ):
        ShardedDataset(data.url, "train")


def test_a_missing_shard_is_named(make_data):
    data = make_data(25)
    (Path(data.url) / "train/shard-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"shard-00002\.arrow: is listed in the manifest but missing"):
        ShardedDataset(data.url, "train")


def test_one_flipped_bit_is_found_by_verify_and_names_the_shard(make_data):
    data = make_data(25)
    assert verify(data.url).rows("train") == 25
    shard = Path(data.url) / "train/shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00001\.arrow: its checksum differs from the manifest"):
        verify(data.url)


def test_a_shard_of_the_right_size_that_is_no_arrow_file_is_refused(make_data):
    data = make_data(25)
    shard = Path(data.url) / "train/shard-00000.arrow"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: is not an Arrow file"):
        ShardedDataset(data.url, "train")


def replace_shard(url: str, table: pa.Table) -> None:
    """Put `table` in the place of the first shard and let the manifest agree with its size."""
    path = Path(url) / "train/shard-00000.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((Path(url) / "manifest.json").read_text())
    manifest["splits"]["train"][0]["bytes"] = path.stat().st_size
    manifest.pop("checksum", None)
    (Path(url) / "manifest.json").write_text(json.dumps(manifest))


def read_shard(url: str) -> pa.Table:
    return pa.ipc.open_file(str(Path(url) / "train/shard-00000.arrow")).read_all()


def test_another_schema_and_another_row_count_are_refused(make_data):
    data = make_data(10)
    table = read_shard(data.url)
    replace_shard(data.url, table.drop_columns(["labels"]))
    with pytest.raises(DataError, match="not the schema of the format"):
        ShardedDataset(data.url, "train")
    replace_shard(data.url, table.slice(0, 9))
    with pytest.raises(DataError, match="has 9 rows, but the manifest lists 10"):
        ShardedDataset(data.url, "train")


def test_broken_list_offsets_are_refused_before_they_are_used(make_data):
    data = make_data(10)
    table = read_shard(data.url)
    column = table.column("labels").combine_chunks()
    offsets = column.offsets.to_numpy().copy()
    offsets[3] += 1000
    broken = pa.ListArray.from_arrays(pa.array(offsets), column.values, type=column.type)
    replace_shard(data.url, table.set_column(2, table.schema.field("labels"), broken))
    with pytest.raises(DataError, match=r"shard-00000\.arrow: the offsets of its column labels are broken"):
        ShardedDataset(data.url, "train")


def test_a_folder_without_a_manifest_is_no_data_set(make_data):
    data = make_data(25)
    (Path(data.url) / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"prepared data set does not exist.*data_tools\.prepare"):
        ShardedDataset(data.url, "train")


def test_a_writer_refuses_a_whole_data_set_and_clears_an_unfinished_one(make_data):
    data = make_data(25)
    folder = Path(data.url)
    with pytest.raises(StaleArtefactError, match="Use another folder"):
        DatasetWriter(data.url)
    (folder / "manifest.json").unlink()
    (folder / "train/.shard-00003.arrow.k2j_9x").write_bytes(b"half")
    (folder / "train/notes.txt").write_text("mine")
    DatasetWriter(data.url)
    assert [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()] == ["train/notes.txt"]


def test_equal_rows_give_equal_bytes(tmp_path, write_data):
    manifests = [DataManifest.read(write_data(str(tmp_path / name), 25, shard_rows=10).url) for name in ("one", "two")]
    assert manifests[0] == manifests[1]
