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
        ConfigError: it cannot be loaded, `data.max_length` (or `model.window` if set) exceeds the encoder's positions,
            or a window has no room for text tokens.
    """
    # Importing transformers takes seconds; workers get the rules instead.
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415

    name = config.model.encoder
    tokenizer = load_pretrained_tokenizer(name, trust_remote_code=config.model.trust_remote_code)
    refuse_too_long(config)
    backend = cast(Tokenizer, tokenizer.backend_tokenizer)
    window_rule(config, backend)
    rules = tokenizer_fingerprint(backend)
    info = TokenizerInfo(name, rules, cast(int, tokenizer.pad_token_id), len(tokenizer))
    return tokenizer, info


def refuse_too_long(config: Config) -> None:
    """Raise `ConfigError` if the encoder's input would exceed its number of positions."""
    from cxml.data.pretrained import read_num_positions  # noqa: PLC0415

    positions = read_num_positions(config.model)
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
