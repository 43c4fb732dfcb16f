"""The encoder's own fast tokenizer, applied to every text once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tokenizers import Tokenizer

from cxml.config import Config
from cxml.data import Ragged, TextEncoder, TokenizerInfo, tokenizer_fingerprint
from cxml.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(config: Config) -> tuple[PreTrainedTokenizerBase, TokenizerInfo]:
    """The tokenizer of `model.encoder`, and the facts that identify it.

    Raises:
        ConfigError: it cannot be loaded, is not a fast one, has no padding token, or `data.max_length` exceeds the
            encoder's positions.
    """
    # Importing transformers takes seconds; workers get the rules instead.
    from cxml.data.pretrained import load_pretrained_tokenizer, read_encoder_config  # noqa: PLC0415

    name = config.model.encoder
    tokenizer = load_pretrained_tokenizer(name, trust_remote_code=config.model.trust_remote_code)
    encoder = read_encoder_config(config.model)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        remedy = "Choose an encoder with a tokenizer.json that names a padding token."
        raise ConfigError("model.encoder", name, "has no fast tokenizer with a padding token", remedy)
    positions = getattr(encoder, "max_position_embeddings", None)
    if positions is not None and config.data.max_length > positions:
        problem = f"the encoder has {positions} positions"
        raise ConfigError("data.max_length", config.data.max_length, problem, f"Set it to {positions} or less.")
    rules = tokenizer_fingerprint(cast(Tokenizer, tokenizer.backend_tokenizer))
    info = TokenizerInfo(name, rules, cast(int, tokenizer.pad_token_id), len(tokenizer))
    return tokenizer, info


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> Ragged:
    """Token ids of each text, int32, special tokens included, cut off at `max_length`."""
    return TextEncoder(cast(Tokenizer, tokenizer.backend_tokenizer), max_length).encode(texts)
