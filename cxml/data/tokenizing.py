"""Tokenise texts with the encoder's fast tokenizer, for preparation and prediction."""

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

# Large enough that threads rarely wait for the GIL, and small enough to limit the library's objects of about 100 bytes
# per token.
_CHARACTERS_PER_CALL = 100_000


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 in hex of all of a tokenizer's rules, as stored in `TokenizerInfo`."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def load_tokenizer_of(facts: TokenizerInfo, data: str) -> Tokenizer:
    """Load the tokenizer of the data set `data`, described by `facts` in its manifest.

    Raises:
        ConfigError: the tokenizer does not exist, or needs its own code.
        StaleArtefactError: the tokenizer has changed since the data were prepared.
    """
    # Importing transformers takes a second, which preparation workers can avoid.
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415

    loaded = load_pretrained_tokenizer(facts.name, trust_remote_code=False)
    tokenizer = cast(Tokenizer, loaded.backend_tokenizer)
    if tokenizer_fingerprint(tokenizer) != facts.fingerprint:
        raise StaleArtefactError(f"{facts.name}: its tokenizer differs from the one that prepared the data in {data}.")
    return tokenizer


class TextEncoder:
    """Converts texts to token ids, including special tokens, truncated to `max_length`. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, pool: Executor | None = None) -> None:
        """With a thread pool, the texts of a call are tokenised in parallel."""
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
        # The method without character offsets is a quarter faster.
        return Ragged.from_lists([encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)])
