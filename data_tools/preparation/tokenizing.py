"""The encoder's own fast tokenizer, applied to every text once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import cast

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from cxml.config import Config
from cxml.data import Ragged, TokenizerInfo, concatenate, resolve_encoder
from cxml.errors import ConfigError

# Enough that a thread seldom waits to get the interpreter back, and little enough that the library's own objects, about
# 100 bytes a token, stay small.
_CHARACTERS_PER_CALL = 100_000


def load_tokenizer(config: Config) -> tuple[PreTrainedTokenizerBase, TokenizerInfo]:
    """The tokenizer of `model.encoder`, and the facts that identify it.

    Raises:
        ConfigError: it cannot be loaded, is not a fast one, has no padding token, or `data.max_length` exceeds the
            encoder's positions.
    """
    name, trust = config.model.encoder, config.model.trust_remote_code
    path = resolve_encoder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        encoder = AutoConfig.from_pretrained(path, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        remedy = "Check the name, the folder and the network; pip:NAME takes an installed package's model."
        raise ConfigError("model.encoder", name, f"its tokenizer cannot be loaded ({error})", remedy) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        remedy = "Choose an encoder with a tokenizer.json that names a padding token."
        raise ConfigError("model.encoder", name, "has no fast tokenizer with a padding token", remedy)
    positions = getattr(encoder, "max_position_embeddings", None)
    if positions is not None and config.data.max_length > positions:
        problem = f"the encoder has {positions} positions"
        raise ConfigError("data.max_length", config.data.max_length, problem, f"Set it to {positions} or less.")
    rules = cast(Tokenizer, tokenizer.backend_tokenizer).to_str()
    info = TokenizerInfo(
        name, hashlib.sha256(rules.encode()).hexdigest(), cast(int, tokenizer.pad_token_id), len(tokenizer)
    )
    return tokenizer, info


class TextEncoder:
    """Turns texts into token ids, special tokens included, cut off at `max_length`. Threads may share one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._backend = cast(Tokenizer, tokenizer.backend_tokenizer)
        self._backend.enable_truncation(max_length)
        self._backend.no_padding()

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Token ids of each text, int32."""
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        num_calls = 1 + int(ends[-1]) // _CHARACTERS_PER_CALL
        bounds = [0, *np.searchsorted(ends, ends[-1] * np.arange(1, num_calls) // num_calls).tolist(), len(texts)]
        return concatenate([self._encode(texts[start:stop]) for start, stop in itertools.pairwise(bounds)])

    def _encode(self, texts: Sequence[str]) -> Ragged:
        # Without the offsets of tokens in the text, which nobody needs here, this is a quarter faster.
        return Ragged.from_lists([encoding.ids for encoding in self._backend.encode_batch_fast(texts)])


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> Ragged:
    """Token ids of each text, int32, special tokens included, cut off at `max_length`."""
    return TextEncoder(tokenizer, max_length).encode(texts)
