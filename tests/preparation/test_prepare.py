"""Preparation: texts, labels, tokens and features are the source's; a killed preparation continues to the same bytes.

Oracles: the raw chapter, the encoder's tokenizer in `transformers`, the textbook formula of tf-idf, a run without a
stop.
"""

import collections
import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from cxml.config import EvidenceConfig, SourceConfig, config_from_dict, config_to_dict
from cxml.data import DataManifest, ShardedDataset, data_url, read_label_table, resolve_encoder
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.formats import RawDataset, RawSplit, read_source
from cxml.inspection.checks import validate
from cxml.pipeline.plan import require_validation
from cxml.preparation import expected_fingerprint, is_prepared, prepare


def content_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_rows_hold_the_texts_and_their_labels_in_the_source_order(make_config, raw_chapter):
    url = prepare(make_config())
    for split, expected in raw_chapter.splits.items():
        dataset = ShardedDataset(url, split)
        rows = np.arange(len(expected.texts))
        assert len(dataset) == len(rows)
        assert dataset.texts(rows) == expected.texts
        assert (dataset.labels_csr() != expected.labels).nnz == 0
        assert dataset.uids().tolist() == rows.tolist()
    labels = read_label_table(url)
    names, frequency = labels.names, labels.frequency
    assert names == raw_chapter.label_names
    assert frequency.tolist() == raw_chapter.splits["train"].labels.sum(axis=0).A1.astype(int).tolist()


def test_tokens_are_what_the_encoders_tokenizer_gives_text_by_text(make_config, raw_chapter):
    config = make_config(max_length=9)
    dataset = ShardedDataset(prepare(config), "train")
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(config.model.encoder))
    ids, _ = dataset.gather(np.arange(len(dataset)))
    got = np.split(ids.values, ids.offsets[1:-1])
    cut = 0
    for text, row in zip(raw_chapter.splits["train"].texts, got, strict=True):
        whole = tokenizer.encode(text)
        cut += len(whole) > 9
        assert row.tolist() == (whole if len(whole) <= 9 else [*whole[:8], whole[-1]])
    assert cut > 10
    assert dataset.manifest.tokenizer.pad_id == tokenizer.pad_token_id
    assert ids.values.max() < dataset.manifest.tokenizer.vocab_size == 30_522


def by_hand_tfidf(train, texts):
    """Rows of {word: weight} from the textbook formula."""
    words = [re.findall(r"\w+", text.lower()) for text in train]
    document_frequency = collections.Counter(word for row in words for word in set(row))
    idf = {word: math.log((1 + len(train)) / (1 + count)) + 1 for word, count in document_frequency.items()}
    for text in texts:
        counts = collections.Counter(word for word in re.findall(r"\w+", text.lower()) if word in idf)
        row = {word: (1 + math.log(count)) * idf[word] for word, count in counts.items()}
        norm = math.sqrt(sum(value**2 for value in row.values()))
        yield {word: value / norm for word, value in row.items()}


def test_tfidf_is_fitted_on_train_alone_and_equals_the_formula(make_config, raw_chapter):
    url = prepare(make_config())
    train = raw_chapter.splits["train"].texts
    vocabulary = sorted({word for text in train for word in re.findall(r"\w+", text.lower())})
    assert DataManifest.read(url).num_features == len(vocabulary)
    for split in ("train", "test"):
        features = ShardedDataset(url, split).features_csr()
        for row, expected in enumerate(by_hand_tfidf(train, raw_chapter.splits[split].texts)):
            got = {vocabulary[i]: value for i, value in zip(features[row].indices, features[row].data, strict=True)}
            assert got == pytest.approx(expected, rel=1e-5)


def test_validation_texts_are_prepared_and_count_in_neither_words_nor_frequencies(make_config, raw_chapter, tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    parts = raw_chapter.splits
    rows = {"train": parts["train"], "dev": parts["test"], "test": parts["test"]}
    for name, part in rows.items():
        lines = [
            json.dumps({"text": text, "labels": part.labels[row].indices.tolist()})
            for row, text in enumerate(part.texts)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    config = make_config(source={"kind": "jsonl", "path": str(folder)}, shard_rows=40)
    url = prepare(config)
    validate(url)
    require_validation(dataclasses.replace(config, evidence=EvidenceConfig(words=True)))
    validation, test = ShardedDataset(url, "validation"), ShardedDataset(url, "test")
    assert len(DataManifest.read(url).splits["validation"]) > 1
    assert validation.texts(np.arange(len(validation))) == parts["test"].texts
    assert (validation.features_csr() != test.features_csr()).nnz == 0
    assert read_label_table(url).frequency.sum() == parts["train"].labels.nnz


def test_a_text_without_a_known_term_keeps_its_row_with_no_features(make_config, xmc_folder):
    file = xmc_folder / "test_raw_texts.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["qqqq zzzz", *lines[1:]]))
    url = prepare(make_config())
    assert ShardedDataset(url, "test").features_csr()[0].nnz == 0
    validate(url)


def test_the_vocabulary_is_capped(make_config):
    url = prepare(make_config(tfidf_max_features=20))
    assert DataManifest.read(url).num_features == 20
    validate(url)


def test_shards_hold_the_configured_rows(make_config, raw_chapter):
    rows = len(raw_chapter.splits["train"].texts)
    manifest = DataManifest.read(prepare(make_config()))
    sizes = [shard.rows for shard in manifest.splits["train"]]
    assert sum(sizes) == rows
    assert set(sizes[:-1]) == {150}


def test_equal_inputs_give_equal_bytes(make_config):
    first, second = (prepare(make_config(output=name)) for name in ("one", "two"))
    assert content_of(first) == content_of(second)
    assert "manifest.json" in content_of(first)


def test_the_icd_source_and_its_files_in_xmc_form_give_the_same_shards(make_config, tmp_path):
    from_files = prepare(make_config())
    source = {"kind": "icd10cm", "chapters": ["3"]}
    data = {"source": source, "max_length": 24, "shard_rows": 150}
    from_book = prepare(config_from_dict({"auto": [], "output": str(tmp_path / "book"), "data": data}))
    one, two = content_of(from_files), content_of(from_book)
    assert one.pop("manifest.json") != two.pop("manifest.json")
    assert one == two


def test_data_prepared_once_is_used_again(make_config):
    config = make_config()
    assert not is_prepared(config)
    url = prepare(config)
    times = {p: p.stat().st_mtime_ns for p in Path(url).rglob("*")}
    assert is_prepared(config)
    assert prepare(config) == url
    assert {p: p.stat().st_mtime_ns for p in Path(url).rglob("*")} == times
    assert DataManifest.read(url).fingerprint == expected_fingerprint(config)


@pytest.mark.parametrize(
    "change",
    [{"max_length": 25}, {"shard_rows": 151}, {"keep_text": False}, {"tfidf_max_features": 7}],
)
def test_data_of_other_settings_is_refused_and_the_setting_named(make_config, change):
    url = prepare(make_config())
    before = content_of(url)
    (name, value), = change.items()  # fmt: skip
    with pytest.raises(StaleArtefactError, match=rf"data\.{name} was \w+, is {value}") as refusal:
        prepare(make_config(**change))
    assert "To keep both, set output or data.directory to another folder" in str(refusal.value)
    assert "elete" not in str(refusal.value)
    assert content_of(url) == before


def test_data_of_other_raw_files_is_refused(make_config, xmc_folder):
    prepare(make_config())
    file = xmc_folder / "train_raw_texts.txt"
    file.write_text(file.read_text().replace("anemia", "anaemia"))
    with pytest.raises(StaleArtefactError, match=r"the raw data was .*train_raw_texts\.txt"):
        prepare(make_config())


def test_moved_or_absent_raw_files_and_new_propensities_leave_the_data_valid(make_config, xmc_folder, tmp_path):
    prepare(make_config())
    moved = tmp_path / "moved"
    shutil.move(xmc_folder, moved)
    assert is_prepared(make_config(source={"path": str(moved)}, propensity_a=0.6, propensity_b=2.6))
    assert is_prepared(make_config(source={"path": str(tmp_path / "nowhere")}))


KILLED_AFTER_TWO = """
import os, signal
from cxml.config import config_from_dict
from cxml.preparation import prepare, work
record, done = work.PreparationJournal.record, []
def killed(journal, info):
    if len(done) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    record(journal, info)
    done.append(info)
work.PreparationJournal.record = killed
prepare(config_from_dict(VALUES))
"""


@pytest.fixture
def half_prepared(make_config):
    """A preparation that was killed after two shards were noted as whole."""
    config = make_config(shard_rows=40)
    script = KILLED_AFTER_TWO.replace("VALUES", repr(config_to_dict(config)))
    command = [sys.executable, "-c", script]
    killed = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return config


def data_files(url):
    return {name: content for name, content in content_of(url).items() if not name.startswith(".progress")}


def test_a_killed_preparation_leaves_no_manifest(half_prepared):
    url = data_url(half_prepared)
    files = set(data_files(url))
    assert "labels.arrow" in files
    assert 2 <= len(files) - 1 < 17
    with pytest.raises(DataError, match="prepared data set does not exist"):
        ShardedDataset(url, "train")
    assert not is_prepared(half_prepared)


def test_the_next_run_makes_only_the_missing_shards_and_ends_with_the_same_bytes(half_prepared, make_config):
    url = data_url(half_prepared)
    notes = Path(url).glob(".progress/train/shard-*.json")
    kept = {p: p.stat().st_mtime_ns for p in (Path(url) / "train" / note.stem for note in notes)}
    assert len(kept) >= 2
    prepare(half_prepared)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert content_of(url) == content_of(prepare(make_config(output="clean", shard_rows=40)))


def test_a_shard_that_was_cut_off_since_is_made_again(half_prepared, make_config):
    url = data_url(half_prepared)
    shard = Path(url) / "train/shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    prepare(half_prepared)
    assert content_of(url) == content_of(prepare(make_config(output="clean", shard_rows=40)))


def test_what_a_run_with_other_settings_left_is_not_used(half_prepared, make_config):
    changed = make_config(shard_rows=40, max_length=25)
    assert data_url(changed) == data_url(half_prepared)
    assert content_of(prepare(changed)) == content_of(
        prepare(make_config(output="clean", shard_rows=40, max_length=25))
    )


def test_skipped_rows_are_counted_in_the_manifest(make_config, xmc_folder):
    file = xmc_folder / "train_raw_texts.txt"
    lines = file.read_bytes().split(b"\n")
    lines[3], lines[8] = b"caf\xe9", b" "
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"line 4: not valid UTF-8"):
        prepare(make_config())
    manifest = validate(prepare(make_config(on_error="skip")))
    assert manifest.skipped == {"train": {"not valid UTF-8": 1, "an empty text": 1}}
    assert manifest.rows("train") == len(lines) - 1 - 2


def test_the_data_folder_is_the_configured_one_or_in_the_output(make_config, tmp_path):
    assert prepare(make_config()) == str(tmp_path / "run/data")
    assert prepare(make_config(directory=str(tmp_path / "shared"))) == str(tmp_path / "shared")
    assert (tmp_path / "shared/manifest.json").is_file()


def test_texts_can_be_left_out(make_config):
    url = prepare(make_config(keep_text=False))
    with pytest.raises(DataError, match="contain no texts"):
        ShardedDataset(url, "test").texts(np.array([0]))
    validate(url)


def test_a_prepared_set_in_an_object_store_equals_the_local_one(make_config):
    local = prepare(make_config())
    remote = prepare(make_config(directory="memory://bucket/prepared"))
    assert DataManifest.read(remote) == DataManifest.read(local)
    validate(remote)


def test_texts_longer_than_the_encoder_takes_are_refused(make_config):
    with pytest.raises(ConfigError, match=r"data\.max_length = 513: the encoder has 512 positions"):
        prepare(make_config(max_length=513))


def test_an_encoder_that_cannot_be_loaded_is_refused_by_name(make_config, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.encoder = .*nowhere.*cannot be loaded"):
        prepare(make_config(encoder=str(tmp_path / "nowhere")))


def test_texts_without_any_word_are_refused(make_config, xmc_folder):
    file = xmc_folder / "train_raw_texts.txt"
    file.write_text("".join("--- ...\n" for _ in file.read_text().splitlines()))
    with pytest.raises(DataError, match="no tf-idf vocabulary"):
        prepare(make_config())
    assert not is_prepared(make_config())


def test_a_slice_of_wordnet_prepares_and_validates(make_config, wordnet_folder, write_xmc, tmp_path):
    raw = read_source(SourceConfig(path=str(wordnet_folder)))
    splits = {name: RawSplit(split.texts[:500], split.labels[:500]) for name, split in raw.splits.items()}
    folder = write_xmc(tmp_path / "slice", RawDataset(splits, raw.label_names))
    manifest = validate(prepare(make_config(source={"path": str(folder)})))
    assert (manifest.rows("train"), manifest.rows("test"), manifest.num_labels) == (500, 500, 13_728)
