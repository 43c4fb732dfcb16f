"""From texts to token ids, by the encoder's own fast tokenizer; the same for preparation and prediction."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import cast

import numpy as np
from tokenizers import Tokenizer

from cxml.data.manifest import TokenizerInfo
from cxml.data.ragged import Ragged, concatenate
from cxml.errors import StaleArtefactError

# Enough that a thread seldom waits to get the interpreter back, and little enough that the library's own objects, about
# 100 bytes a token, stay small.
_CHARACTERS_PER_CALL = 100_000


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 in hex of all of a tokenizer's rules, as `TokenizerInfo` and so a manifest hold it."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def load_tokenizer_of(facts: TokenizerInfo, data: str) -> Tokenizer:
    """The tokenizer that made the token ids of the data set `data`, whose manifest has these facts.

    Raises:
        ConfigError: there is no tokenizer of that name, or it needs code of its own.
        StaleArtefactError: the tokenizer of that name is another one now.
    """
    # Importing transformers takes a second, which the workers of a preparation need not wait.
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415

    loaded = load_pretrained_tokenizer(facts.name, trust_remote_code=False)
    tokenizer = cast(Tokenizer, loaded.backend_tokenizer)
    if tokenizer_fingerprint(tokenizer) != facts.fingerprint:
        raise StaleArtefactError(f"{facts.name}: its tokenizer is not the one that the data in {data} were made with.")
    return tokenizer


class TextEncoder:
    """Turns texts into token ids, special tokens included, cut off at `max_length`. Threads may share one."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, pool: Executor | None = None) -> None:
        """With a pool of threads, parts of a call's texts are tokenised side by side."""
        self._map = map if pool is None else pool.map
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Token ids of each text, int32."""
        if not texts:
            return Ragged.from_lists([])
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        num_calls = 1 + int(ends[-1]) // _CHARACTERS_PER_CALL
        bounds = [0, *np.searchsorted(ends, ends[-1] * np.arange(1, num_calls) // num_calls).tolist(), len(texts)]
        parts = (texts[start:stop] for start, stop in itertools.pairwise(bounds))
        return concatenate(list(self._map(self._encode, parts)))

    def _encode(self, texts: Sequence[str]) -> Ragged:
        # Without the offsets of tokens in the text, which nobody needs here, this is a quarter faster.
        return Ragged.from_lists([encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)])
