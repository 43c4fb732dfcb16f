"""Titles in prepared data: kept by every tool, absent where there is no labels file, no reason to prepare anew."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.runs import make_encoder, small_config

from cxml import artefacts, storage
from cxml.config import SourceConfig
from cxml.data import (
    DataManifest,
    LabelTitles,
    RowSubset,
    ShardedDataset,
    TextEncoder,
    load_tokenizer_of,
    read_label_table,
    with_names,
)
from cxml.errors import ConfigError, StaleArtefactError
from cxml.inspection.checks import validate
from cxml.pipeline.checks import check_run_on_data
from cxml.preparation import is_prepared, prepare
from cxml.preparation.validation_split import hold_out

TITLES = {"1": ("boat", "It floats."), "2": ("barge", ""), "3": ("raft", "")}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def rows(tmp_path):
    """A folder of texts whose labels are 1, 2 and 4."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "test"):
        lines = (json.dumps({"text": f"text {i}", "labels": [(1, 2, 4)[i % 3]]}) + "\n" for i in range(12))
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def write_titles(folder):
    lines = (f"{name}\t{title}\t{text}\n" for name, (title, text) in TITLES.items())
    (folder / "labels.tsv").write_text("id\tname\tdescription\n" + "".join(lines))


def config_of(rows, encoder, **source):
    fields = {"kind": "jsonl", "path": str(rows), **source}
    model = {"dropouts": (0.0,), "shortlist_sizes": ()}
    config = small_config(rows.parent / "out", encoder, tree={"level_sizes": ()}, model=model)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=SourceConfig(**fields)))


def test_prepared_data_have_names_titles_and_descriptions_in_the_same_order(rows, encoder):
    write_titles(rows)
    url = prepare(config_of(rows, encoder, unseen_labels=True))
    labels = read_label_table(url)
    names, frequency = labels.names, labels.frequency
    assert names == ["1", "2", "4", "3"]
    assert frequency.tolist() == [4, 4, 4, 0]
    assert read_label_table(url).titles == LabelTitles(["boat", "barge", "4", "raft"], ["It floats.", "", "", ""])
    assert read_label_table(url).shown == ["1 boat", "2 barge", "4", "3 raft"]
    validate(url)


def test_without_a_labels_file_the_names_are_the_words_and_the_file_has_no_more_columns(rows, encoder):
    url = prepare(config_of(rows, encoder))
    assert read_label_table(url).titles is None
    assert read_label_table(url).words == LabelTitles.of_names(["1", "2", "4"])
    assert read_label_table(url).shown == ["1", "2", "4"]


def test_a_split_of_prepared_data_keeps_the_titles(rows, encoder, tmp_path):
    write_titles(rows)
    url = prepare(config_of(rows, encoder))
    hold_out(url, str(tmp_path / "split"), fraction=0.25, seed=0)
    assert read_label_table(str(tmp_path / "split")).titles == read_label_table(url).titles


def test_names_as_texts_are_titles_with_their_descriptions(rows, encoder):
    write_titles(rows)
    url = prepare(config_of(rows, encoder))
    train = RowSubset(ShardedDataset(url, "train"), np.zeros(0, np.int64))
    named = with_names(train, url, "(.+)", max_length=16)
    ids, labels = named.gather(np.arange(len(named)))
    expected = TextEncoder(load_tokenizer_of(train.manifest.tokenizer, url), 16).encode(
        ["boat: It floats.", "barge", "4"]
    )
    assert (ids.values.tolist(), ids.offsets.tolist()) == (expected.values.tolist(), expected.offsets.tolist())
    assert labels.values.tolist() == [0, 1, 2]


def test_the_check_before_the_tree_looks_for_name_texts_in_titles(rows, encoder):
    write_titles(rows)
    config = config_of(rows, encoder)
    prepare(config)
    in_titles, in_no_title = (
        dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=4, name_texts=pattern))
        for pattern in ("(bar.*)", "(1)")
    )
    check_run_on_data(in_titles)
    with pytest.raises(ConfigError, match=r"train\.name_texts"):
        check_run_on_data(in_no_title)


def as_before_there_were_labels_files(url):
    manifest = artefacts.read_json(f"{url}/manifest.json", "")
    del manifest["config"]["source"]["labels_file"], manifest["checksum"]
    storage.write_json(f"{url}/manifest.json", manifest)


def test_data_of_a_version_without_labels_files_stay_valid_beside_one_and_the_log_says_so(rows, encoder, caplog):
    url = prepare(config_of(rows, encoder))
    as_before_there_were_labels_files(url)
    fingerprint = DataManifest.read(url).fingerprint
    write_titles(rows)
    with caplog.at_level(logging.INFO):
        assert prepare(config_of(rows, encoder)) == url
    assert DataManifest.read(url).fingerprint == fingerprint
    assert f"without the labels file {rows}/labels.tsv. To add its titles, run" in caplog.text
    with pytest.raises(StaleArtefactError, match="labels_file"):
        is_prepared(config_of(rows, encoder, labels_file=str(rows / "labels.tsv")))


def test_a_labels_file_that_comes_changes_or_moves_makes_other_data_or_the_same(rows, encoder):
    plain = config_of(rows, encoder)
    prepare(plain)
    write_titles(rows)
    with pytest.raises(StaleArtefactError, match="the raw data was"):
        is_prepared(plain)
    assert is_prepared(config_of(rows, encoder, labels_file=""))
    other = dataclasses.replace(plain, data=dataclasses.replace(plain.data, directory=str(rows.parent / "other")))
    prepare(other)
    moved = Path(rows / "labels.tsv").rename(rows.parent / "terms.tsv")
    source = dataclasses.replace(other.data.source, labels_file=str(moved))
    moved_config = dataclasses.replace(other, data=dataclasses.replace(other.data, source=source))
    assert is_prepared(moved_config)
    moved.write_text(moved.read_text().replace("boat", "ship"))
    with pytest.raises(StaleArtefactError):
        is_prepared(moved_config)
