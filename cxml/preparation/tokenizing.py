"""Load the encoder's fast tokenizer, and tokenise texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tokenizers import Tokenizer

from cxml.config import Config
from cxml.data import Ragged, TextEncoder, TokenizerInfo, tokenizer_fingerprint, window_rule
from cxml.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(config: Config) -> tuple[PreTrainedTokenizerBase, TokenizerInfo]:
    """The tokenizer of `model.encoder`, and the facts that identify it.

    Raises:
        ConfigError: it cannot be loaded, is not a fast tokenizer, has no padding token, `data.max_length` (or
            `model.window` if set) exceeds the encoder's positions, or a window has no room for text tokens.
    """
    # Importing transformers takes seconds; workers get the rules instead.
    from cxml.data.pretrained import load_pretrained_tokenizer, read_encoder_config  # noqa: PLC0415

    name = config.model.encoder
    tokenizer = load_pretrained_tokenizer(name, trust_remote_code=config.model.trust_remote_code)
    encoder = read_encoder_config(config.model)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        remedy = "Choose an encoder with a tokenizer.json that defines a padding token."
        raise ConfigError("model.encoder", name, "has no fast tokenizer with a padding token", remedy)
    _refuse_too_long(config, getattr(encoder, "max_position_embeddings", None))
    backend = cast(Tokenizer, tokenizer.backend_tokenizer)
    window_rule(config, backend)
    rules = tokenizer_fingerprint(backend)
    info = TokenizerInfo(name, rules, cast(int, tokenizer.pad_token_id), len(tokenizer))
    return tokenizer, info


def _refuse_too_long(config: Config, positions: int | None) -> None:
    """Raise `ConfigError` if the encoder's input would exceed its number of positions."""
    length, window = config.data.max_length, config.model.window
    if positions is None or config.tokens_at_once <= positions:
        return
    problem = f"the encoder has {positions} positions"
    if window:
        raise ConfigError("model.window", window, problem, f"Set it to {positions} or less.")
    remedy = f"Set it to {positions} or less, or split longer texts into windows: model.window {min(positions, 256)}."
    raise ConfigError("data.max_length", length, problem, remedy)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> Ragged:
    """Token ids of each text, int32, including special tokens, truncated to `max_length`."""
    return TextEncoder(cast(Tokenizer, tokenizer.backend_tokenizer), max_length).encode(texts)
