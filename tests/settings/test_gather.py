"""Facts that settings are chosen from: whether label names occur in their texts, and what an encoder's files say.

Oracles: WordNet (names occur) and ICD-10-CM (codes do not), and encoder files written here.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.runs import MINILM, make_encoder

from cxml.accelerators import accelerator_type
from cxml.config import Config, DataConfig, ModelConfig, SourceConfig, with_values
from cxml.data import Ragged, parts_of_names, resolve_encoder
from cxml.formats import icd10cm, read_source
from cxml.settings import encoder_facts, longest_possible, words_may_read_texts
from cxml.settings.names import NameOverlap, overlap_of_names

WORDNET = Path(__file__).parents[1] / "fixtures/wordnet"


def pattern_of(raw):
    split = raw.splits["train"]
    return overlap_of_names(raw.label_names, split.texts, Ragged(split.labels.indices, split.labels.indptr)).pattern


@pytest.fixture(scope="module")
def wordnet():
    return read_source(SourceConfig(kind="xmc", path=str(WORDNET)))


def test_the_words_of_wordnets_names_are_found_and_their_numbers_left_out(wordnet):
    pattern = pattern_of(wordnet)
    assert pattern
    parts = parts_of_names(["dog.n.02084071", "New_York.n.1"], pattern)
    assert parts == {0: "dog", 1: "New York"}


def test_codes_are_no_words_of_their_texts():
    assert pattern_of(icd10cm.read(["3"], test_fraction=0.2, split_seed=0)) == ""


def rows(texts, labels):
    return texts, Ragged.from_lists([[label] for label in labels])


def test_plain_names_that_their_texts_use_are_taken_whole():
    names = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("shoes", "shirts", "hats", "socks")]
    texts, labels = rows([f"{name} for summer" for name in names], range(12))
    assert overlap_of_names(names, texts, labels).pattern == "(.+)"


def test_names_that_are_whole_texts_describe_them_but_would_give_test_texts_away():
    names = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("shoes", "shirts", "hats", "socks")]
    assert overlap_of_names(names, *rows(names, range(12))) == NameOverlap(pattern="", describes=True)


def test_names_in_words_that_all_texts_use_alike_say_nothing():
    names = [f"text about {letter}" for letter in "abcdefghijkl"]
    texts, labels = rows([f"a text about {' '.join('abcdefghijkl')}"] * 12, range(12))
    assert overlap_of_names(names, texts, labels) == NameOverlap(pattern="", describes=False)


@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, None),
        ([], None),
        (None, None),
    ],
)
def test_pooling_is_what_the_encoders_files_say(tmp_path, written, pooling):
    encoder = make_encoder(tmp_path)
    if written is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(written))
    facts = encoder_facts(ModelConfig(encoder=encoder))
    assert facts.pooling == pooling
    assert (facts.num_layers, facts.hidden_size) == (2, 32)


def test_a_file_that_is_no_json_says_nothing(tmp_path):
    encoder = make_encoder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text("{")
    assert encoder_facts(ModelConfig(encoder=encoder)).pooling is None


def test_the_longest_text_is_what_the_encoder_was_pretrained_on(tmp_path):
    assert longest_possible(ModelConfig(encoder=MINILM), 512) == 256
    folder = Path(shutil.copytree(resolve_encoder(MINILM), tmp_path / "encoder"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": true}')
    assert longest_possible(ModelConfig(encoder=str(folder)), 10**30) == 512
    assert longest_possible(ModelConfig(encoder=str(folder)), 100) == 100


def test_a_cpu_reads_few_tokens_of_texts_whose_words_a_linear_model_reads():
    most = longest_possible(ModelConfig(encoder=MINILM), 512, words_read_the_rest=True)
    assert most == (256 if accelerator_type() else 128)


OPEN_SHARE, OPEN_WORDS = ("train.validation_fraction",), ("evidence.words",)


@pytest.mark.parametrize(("is_open", "given", "num_texts", "has_validation", "expected"), [
    (OPEN_SHARE + OPEN_WORDS, {}, 500, False, True),
    (OPEN_SHARE + OPEN_WORDS, {}, 499, False, False),  # too few to hold some out
    (OPEN_SHARE + OPEN_WORDS, {}, 10, True, True),
    (OPEN_WORDS, {"train.validation_fraction": 0.1}, 10, False, True),
    (OPEN_WORDS, {}, 5000, False, False),  # no validation texts
    (OPEN_SHARE, {"evidence.words": True}, 500, False, True),
    (OPEN_SHARE, {}, 500, False, False),  # switched off
])  # fmt: skip
def test_words_read_whole_texts_where_they_may_be_a_source_and_can_be_weighed(
    is_open, given, num_texts, has_validation, expected
):
    config = with_values(Config(output="out", data=DataConfig(source=SourceConfig(kind="icd10cm"))), given)
    config = dataclasses.replace(config, auto=is_open)
    assert words_may_read_texts(config, num_texts, has_validation=has_validation) is expected


def test_with_windows_the_longest_text_has_eight_of_them():
    assert longest_possible(ModelConfig(encoder=MINILM, window=128), 512) == 1024
