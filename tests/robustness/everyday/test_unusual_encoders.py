"""Encoders that cannot give the features of a text are refused by name and reason before any text is prepared."""

import json

import pytest
import safetensors.torch
from support.encoders import ARCHITECTURES, DEPEND_ON_PADDING, VOCABULARY, save_encoder, save_tokenizer
from support.small_runs import small_values, write_rows

from cxml import pipeline
from cxml.config import config_from_dict
from cxml.data.pretrained import read_num_positions
from cxml.errors import ConfigError, CxmlError
from cxml.pipeline.checks import check_run
from cxml.settings.gather import encoder_facts, longest_possible


def never(work, arguments, num_workers):
    raise AssertionError("no process is started")


def config_of(folder, kind="bert", *, is_open=(), changes=None, **sections):
    """A config for an encoder of a kind that is saved in the folder `encoder`, without `is_open` fields."""
    if not (folder / "encoder").exists():
        save_encoder(folder / "encoder", kind, **(changes or {}))
    values = small_values(folder / "run", str(folder / "encoder"), folder / "raw", **sections)
    values["model"] = {"pooling": "mean"} | values["model"]
    for name in is_open:
        section, field = name.split(".")
        values[section].pop(field, None)
    return config_from_dict({**values, "auto": list(is_open)})


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        check_run(config)
    return str(caught.value)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_kinds_that_ignore_padding_are_accepted(tmp_path, kind):
    check_run(config_of(tmp_path, kind, data={"max_length": 40}))


@pytest.mark.parametrize("kind", sorted(DEPEND_ON_PADDING))
def test_kinds_whose_features_depend_on_padding_are_refused_before_texts_are_prepared(tmp_path, kind):
    config = config_of(tmp_path, kind, data={"max_length": 40})
    write_rows(tmp_path / "raw", 4, 20)
    with pytest.raises(ConfigError, match=r"model\.encoder.* other features for a text if the text is padded"):
        pipeline.run(config, run_job=never)
    assert not (tmp_path / "run" / "data" / "manifest.json").exists()


@pytest.mark.parametrize("length", [12, 40])
def test_sparse_attention_is_accepted_for_texts_that_it_does_not_affect(tmp_path, length):
    """With blocks of 4 tokens, BigBird's attention is full up to 28 tokens."""
    changes = {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}
    config = config_of(tmp_path, "big_bird", changes=changes, data={"max_length": length})
    if length == 12:
        check_run(config)
    else:
        assert "is padded to the length of others" in refusal(config)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "clip_text_model", "mamba"])
def test_the_first_token_of_a_causal_encoder_is_not_pooled(tmp_path, kind):
    message = refusal(config_of(tmp_path, kind, model={"pooling": "cls"}))
    assert message.startswith("model.pooling = 'cls'")
    assert "Set it to mean" in message
    check_run(config_of(tmp_path, kind, is_open=("model.pooling",)))


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "longformer", "clip_text_model", "bert", "gpt2"])
def test_a_text_fills_all_positions_and_one_more_token_is_refused(tmp_path, kind):
    longest = 48
    config = config_of(tmp_path, kind, data={"max_length": longest})
    check_run(config)
    assert longest_possible(config.model, 10**30) == longest
    message = refusal(config_of(tmp_path, kind, data={"max_length": longest + 1}))
    assert message.startswith(f"data.max_length = {longest + 1}: the encoder has {longest} positions")


@pytest.mark.parametrize("kind", ["xlnet", "t5"])
def test_relative_positions_have_no_limit(tmp_path, kind):
    config = config_of(tmp_path, kind, data={"max_length": 100})
    assert read_num_positions(config.model) is None
    check_run(config)


def test_a_tokenizer_without_a_padding_token_is_refused_with_the_line_to_add(tmp_path):
    config = config_of(tmp_path, "gpt2")
    save_tokenizer(tmp_path / "encoder", VOCABULARY, pad_token=None, eos_token="[SEP]")
    message = refusal(config)
    assert "no padding token" in message
    assert '"pad_token": "[SEP]"' in message
    file = tmp_path / "encoder" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": "[SEP]"}))
    check_run(config)


def test_a_token_without_an_embedding_is_refused(tmp_path):
    config = config_of(tmp_path)
    save_tokenizer(tmp_path / "encoder", VOCABULARY + 1)
    assert f"the id {VOCABULARY}, but it has {VOCABULARY} embeddings" in refusal(config)


def test_weights_that_a_file_lacks_are_refused_but_an_unused_pooling_head_is_not_needed(tmp_path):
    config = config_of(tmp_path)
    file = tmp_path / "encoder" / "model.safetensors"
    weights = {name: value for name, value in safetensors.torch.load_file(file).items() if "pooler" not in name}
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    check_run(config)
    del weights["encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    assert "its files lack 1 weights, first encoder.layer.1.output.dense.weight" in refusal(config)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("albert", "model.freeze_layers", 1),
        ("xlm", "model.freeze_layers", 1),
        ("albert", "train.compile", True),
        ("mpnet", "train.activation_checkpointing", True),
    ],
)
def test_what_a_kind_does_not_support_is_refused(tmp_path, kind, field, value):
    section, name = field.split(".")
    assert refusal(config_of(tmp_path, kind, **{section: {name: value}})).startswith(f"{field} = {value!r}: ")


def test_an_encoder_that_cannot_predict_in_int8_is_refused_before_texts_are_prepared(tmp_path):
    with pytest.raises(CxmlError, match="Predict in another precision than int8"):
        check_run(config_of(tmp_path, "mamba", evaluate={"precision": "int8"}))


@pytest.mark.parametrize(
    ("kind", "has_separate_layers"), [("bert", True), ("t5", True), ("albert", False), ("xlm", False)]
)
def test_the_run_knows_whether_layers_can_be_frozen(tmp_path, kind, has_separate_layers):
    assert encoder_facts(config_of(tmp_path, kind).model).has_separate_layers is has_separate_layers


OWN_CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own-bert"

class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_encoders_with_trusted_code_of_their_own_are_accepted(tmp_path):
    save_encoder(tmp_path / "encoder", "bert")
    file = tmp_path / "encoder" / "config.json"
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "own-bert", "auto_map": classes}))
    (tmp_path / "encoder" / "own.py").write_text(OWN_CODE)
    config = config_of(tmp_path, model={"trust_remote_code": True})
    check_run(config)
    assert encoder_facts(config.model).has_separate_layers
    assert read_num_positions(config.model) == ARCHITECTURES["bert"]["max_position_embeddings"]
