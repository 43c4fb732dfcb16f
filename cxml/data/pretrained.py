"""Pretrained encoders and tokenizers, from a folder, the hub or a package. Their code runs only if a setting says so.

Not part of what `cxml.data` exports: importing transformers takes seconds, and the workers of a preparation need none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cxml.config import ModelConfig
from cxml.data.architecture import read_architecture
from cxml.data.encoder_path import resolve_encoder
from cxml.errors import ConfigError, DataError

_POOLING = "1_Pooling/config.json"
_SENTENCES = "sentence_bert_config.json"
_MOST_BYTES = 1 << 16  # of either

_REMEDY = "Give a hub name (needs the network the first time), a folder with config.json, or pip:PACKAGE."


def read_encoder_config(config: ModelConfig) -> PretrainedConfig:
    """The encoder's architecture, without its weights; code that its config names counts only with `trust_remote_code`.

    Raises:
        ConfigError: the encoder is neither a model on the hub nor a readable folder, or not a text encoder.
    """
    path = _checked_path(config.encoder)
    try:
        if config.trust_remote_code:
            return AutoConfig.from_pretrained(path, trust_remote_code=True)
        values, _ = PretrainedConfig.get_config_dict(path)
        return read_architecture(values, config.encoder, _REMEDY)
    except DataError as error:
        raise ConfigError("model.encoder", config.encoder, error.problem, _REMEDY) from error
    except Exception as error:  # a damaged file leads to any kind, as in the functions below
        problem = f"cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY) from error


def load_pretrained(config: ModelConfig) -> PreTrainedModel:
    """The encoder with its pretrained weights, float32. Raises what `read_encoder_config` raises."""
    path, trust = _checked_path(config.encoder), config.trust_remote_code
    architecture = read_encoder_config(config)
    try:
        return AutoModel.from_pretrained(path, config=architecture, dtype=torch.float32, trust_remote_code=trust)
    except Exception as error:
        problem = f"its weights cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY) from error


def load_pretrained_tokenizer(name: str, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder.

    Raises:
        ConfigError: it cannot be loaded, or needs code of its own that is not trusted.
    """
    path = _checked_path(name)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        problem = f"its tokenizer cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", name, problem, _REMEDY) from error


def read_pooling(config: ModelConfig) -> Literal["cls", "mean"] | None:
    """How the encoder was pretrained to make one feature of a text, by the files that sentence-transformers writes.

    None where it has no such file, or one that names another way.

    Raises:
        ConfigError: the encoder's package is not installed.
    """
    found = _extra_file(config.encoder, _POOLING)
    if found.get("pooling_mode_mean_tokens") is True:
        return "mean"
    return "cls" if found.get("pooling_mode_cls_token") is True else None


def read_sentence_length(config: ModelConfig) -> int | None:
    """Tokens of the longest text that the encoder was pretrained on as a whole, where its files say so.

    Raises:
        ConfigError: the encoder's package is not installed.
    """
    found = _extra_file(config.encoder, _SENTENCES).get("max_seq_length")
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def _extra_file(encoder: str, file: str) -> dict[str, Any]:
    """A JSON object beside the encoder's weights; empty where there is none that can be read."""
    path = _checked_path(encoder)
    try:
        local = Path(path, file) if Path(path).is_dir() else Path(hf_hub_download(path, file))
        with local.open("rb") as stream:
            found = json.loads(stream.read(_MOST_BYTES))
    except Exception:  # of the hub's many kinds; the file only adds to what the encoder says of itself
        return {}
    return found if isinstance(found, dict) else {}


def _checked_path(name: str) -> str:
    """`resolve_encoder`, which refuses a folder that holds a pipe or device too: reading one may never end."""
    path = resolve_encoder(name)
    for file in Path(path).iterdir() if Path(path).is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ConfigError("model.encoder", name, f"{file.name} is not a regular file", _REMEDY)
    return path
