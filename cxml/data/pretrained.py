"""Load pretrained encoders and tokenizers from a folder, the hub or a package. Their code is not trusted by default.

`cxml.data` does not export this module, because importing transformers takes seconds and preparation workers do not
need it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from torch import nn
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
    """The encoder's architecture, without its weights. Code named in its config is used only with `trust_remote_code`.

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
    except Exception as error:  # damaged files cause any kind of error, also in the functions below
        problem = f"cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY) from error


def load_pretrained(config: ModelConfig) -> PreTrainedModel:
    """The encoder with its pretrained weights, float32. Raises what `read_encoder_config` raises."""
    path, trust = _checked_path(config.encoder), config.trust_remote_code
    architecture = read_encoder_config(config)
    try:
        loaded, report = AutoModel.from_pretrained(
            path, config=architecture, dtype=torch.float32, trust_remote_code=trust, output_loading_info=True
        )
    except Exception as error:
        problem = f"its weights cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY) from error
    encoder = _text_encoder(loaded)
    absent = set(report["missing_keys"])
    missing = [name for name, weight in loaded.named_parameters() if name in absent and _is_used(weight, encoder)]
    if missing:
        problem = f"its files lack {len(missing)} weights, first {missing[0]}"
        raise ConfigError("model.encoder", config.encoder, problem, "Give the folder of a complete model.")
    return encoder


def new_transformer(architecture: PretrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A text encoder with new weights; of a sequence-to-sequence model, the encoder."""
    return _text_encoder(AutoModel.from_config(architecture, trust_remote_code=trust_remote_code))


def outline_of(config: ModelConfig) -> PreTrainedModel:
    """The encoder of a config, without its weights. Raises what `read_encoder_config` raises."""
    architecture = read_encoder_config(config)
    with torch.device("meta"):
        return new_transformer(architecture, trust_remote_code=config.trust_remote_code)


def read_num_positions(config: ModelConfig) -> int | None:
    """`num_positions` of the encoder of a config. Raises what `read_encoder_config` raises."""
    return num_positions(outline_of(config))


def num_positions(encoder: PreTrainedModel) -> int | None:
    """Most tokens that an encoder reads at once; None if its architecture sets no limit.

    The first positions of RoBERTa and its kind are reserved for padding.
    """
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet has -1
        return None
    tables = [module for name, module in encoder.named_modules() if name.endswith("position_embeddings")]
    paddings = [table.padding_idx for table in tables if isinstance(table, nn.Embedding)]
    return positions - max((1 + padding for padding in paddings if padding is not None), default=0)


def _text_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a sequence-to-sequence model; any other model itself."""
    return model.get_encoder() if type(model.config)().is_encoder_decoder else model


def _is_used(weight: nn.Parameter, encoder: PreTrainedModel) -> bool:
    """Whether a weight belongs to the encoder, without its unused pooling head."""
    pooler = getattr(encoder, "pooler", None)
    is_pooler = pooler is not None and any(weight is each for each in pooler.parameters())
    return not is_pooler and any(weight is each for each in encoder.parameters())


def load_pretrained_tokenizer(name: str, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder.

    Raises:
        ConfigError: it cannot be loaded, needs its own code, which is not trusted, is not a fast tokenizer, or has no
            padding token.
    """
    path = _checked_path(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        problem = f"its tokenizer cannot be loaded ({str(error)[:300]})"
        raise ConfigError("model.encoder", name, problem, _REMEDY) from error
    if not tokenizer.is_fast:
        remedy = "Choose an encoder with a tokenizer.json."
        raise ConfigError("model.encoder", name, "has no fast tokenizer", remedy)
    if tokenizer.pad_token_id is None:
        example = f'"pad_token": {json.dumps(tokenizer.eos_token or tokenizer.unk_token)}'
        remedy = f"Copy its folder and add a token of its vocabulary to tokenizer_config.json, such as {example}."
        raise ConfigError("model.encoder", name, "its tokenizer has no padding token", remedy)
    return tokenizer


def read_pooling(config: ModelConfig) -> Literal["cls", "mean"] | None:
    """The pooling of the encoder's pretraining, from the files of sentence-transformers.

    None if it has no such file, or one with another pooling.

    Raises:
        ConfigError: the encoder's package is not installed.
    """
    found = _extra_file(config.encoder, _POOLING)
    if found.get("pooling_mode_mean_tokens") is True:
        return "mean"
    return "cls" if found.get("pooling_mode_cls_token") is True else None


def read_sentence_length(config: ModelConfig) -> int | None:
    """The maximum length of the encoder's pretraining in tokens, if its files specify it.

    Raises:
        ConfigError: the encoder's package is not installed.
    """
    found = _extra_file(config.encoder, _SENTENCES).get("max_seq_length")
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def _extra_file(encoder: str, file: str) -> dict[str, Any]:
    """A JSON object next to the encoder's weights; empty if it is missing or unreadable."""
    path = _checked_path(encoder)
    try:
        local = Path(path, file) if Path(path).is_dir() else Path(hf_hub_download(path, file))
        with local.open("rb") as stream:
            found = json.loads(stream.read(_MOST_BYTES))
    except Exception:  # the hub raises many kinds of errors, and the file is optional
        return {}
    return found if isinstance(found, dict) else {}


def _checked_path(name: str) -> str:
    """`resolve_encoder` that also rejects folders with a pipe or device, because reading one may never end."""
    path = resolve_encoder(name)
    for file in Path(path).iterdir() if Path(path).is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ConfigError("model.encoder", name, f"{file.name} is not a regular file", _REMEDY)
    return path
