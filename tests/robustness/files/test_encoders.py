"""Encoders in folders whose files name code of others: the code is neither downloaded nor run.

Oracles: the encoder without the change, a marker that the code would write, and sockets that fail the test.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from support.runs import make_encoder

from cxml.config import ModelConfig
from cxml.data.pretrained import load_pretrained, load_pretrained_tokenizer
from cxml.errors import ConfigError

CODE = {
    "attn_implementation": "owner/kernel:fn",
    "experts_implementation": "owner/kernel",
    "auto_map": {"AutoConfig": "code.Config", "AutoModel": "owner/code--model.Model"},
    "quantization_config": {"quant_method": "gptq", "bits": 4, "dataset": "owner/data"},
    "per_layer_config": {"0": {"attn_implementation": "owner/kernel:fn"}},
    "_attn_implementation_internal": "owner/kernel:fn",
}


@pytest.fixture
def folder(tmp_path):
    """An encoder with a module beside it that tells when it is run."""
    place = Path(make_encoder(tmp_path / "encoder"))
    marker = tmp_path / "was run"
    (place / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Tokenizer: pass\n")
    yield place
    assert not marker.exists()
    assert "code" not in {name.split(".")[-1] for name in sys.modules if name.startswith("transformers_modules")}


def add(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("field", CODE)
def test_an_encoder_whose_config_names_code_loads_without_it(folder, no_network, field):
    expected = load_pretrained(ModelConfig(encoder=str(folder)))
    add(folder / "config.json", **{field: CODE[field]})
    found = load_pretrained(ModelConfig(encoder=str(folder)))
    assert found.config._attn_implementation == expected.config._attn_implementation
    for name, parameter in expected.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter)


def test_an_encoder_of_a_type_that_only_its_code_knows_is_refused(folder, no_network):
    add(folder / "config.json", model_type="code", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(ConfigError, match="unknown model_type 'code'"):
        load_pretrained(ModelConfig(encoder=str(folder)))


def test_a_tokenizer_that_names_code_is_loaded_without_it_or_refused(folder, no_network):
    file = folder / "tokenizer_config.json"
    expected = load_pretrained_tokenizer(str(folder), trust_remote_code=False)
    add(file, auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    found = load_pretrained_tokenizer(str(folder), trust_remote_code=False)
    assert found("a text")["input_ids"] == expected("a text")["input_ids"]
    add(file, tokenizer_class="CodeTokenizer")
    add(folder / "config.json", model_type="code", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(ConfigError, match=r"its tokenizer cannot be loaded"):
        load_pretrained_tokenizer(str(folder), trust_remote_code=False)


def load_all(folder):
    load_pretrained(ModelConfig(encoder=str(folder)))
    load_pretrained_tokenizer(str(folder), trust_remote_code=False)


def damage(file, kind):
    if kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "zeros":
        file.unlink()
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes({"empty": b"", "noise": b"\xff\x00noise" * 50, "list": b"[1]", "deep": b"[" * 100_000}[kind])


DAMAGES = [
    (name, kind)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "special_tokens_map.json")
    for kind in ("empty", "noise", "list", "deep", "pipe", "zeros")
    if (name, kind) != ("special_tokens_map.json", "list")  # transformers reads nothing from it
]


@pytest.mark.parametrize(("name", "kind"), DAMAGES)
def test_a_damaged_encoder_is_refused_by_name(folder, no_network, name, kind):
    damage(folder / name, kind)
    with pytest.raises(ConfigError, match=r"model\.encoder = "):
        load_all(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"hidden_dropout_prob": "x"}),
        ("config.json", {"vocab_size": 10**9}),
        ("config.json", {"hidden_size": -1}),
        ("special_tokens_map.json", {"mask_token": 10**39}),
        ("tokenizer_config.json", {"do_lower_case": 0.5}),
    ],
)
def test_an_encoder_with_impossible_values_is_refused_by_name(folder, no_network, name, values):
    add(folder / name, **values)
    with pytest.raises(ConfigError, match=r"model\.encoder = "):
        load_all(folder)
