"""Choose an open `data.max_length` from the texts, before they are tokenised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.config import Config, with_values
from cxml.data import VALIDATION, DataManifest, data_url
from cxml.formats import Reader, open_source
from cxml.preparation.tokenizing import tokenize

_FIELD = "data.max_length"
_SAMPLE = 20_000  # texts whose lengths are measured
_SHARE = 0.99
_MULTIPLE = 8  # efficient for matrix units, and limits the number of different batch lengths
_LEAST = 16


def with_length(config: Config, source: Reader | None = None) -> Config:
    """The config with `data.max_length` set: that of the prepared data set if it exists, else from its texts.

    Args:
        config: the run's config.
        source: the raw data, if it is already open.

    Raises:
        ConfigError: the encoder or its tokenizer cannot be read.
        DataError: the raw data are missing or broken.
    """
    if _FIELD not in config.auto:
        return config
    if storage.exists(storage.join(data_url(config), MANIFEST)):
        chosen = DataManifest.read(data_url(config)).config.get("max_length", config.data.max_length)
    else:
        chosen = _by_the_texts(config, source or open_source(config.data.source))
    return with_values(config, {_FIELD: chosen})


def _by_the_texts(config: Config, source: Reader) -> int:
    # Importing transformers takes seconds, which workers avoid.
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415
    from cxml.settings import longest_possible, words_may_read_texts  # noqa: PLC0415

    model = config.model
    tokenizer = load_pretrained_tokenizer(model.encoder, trust_remote_code=model.trust_remote_code)
    texts = list(_some_texts(source))
    reads_rest = words_may_read_texts(config, len(texts), has_validation=VALIDATION in source.splits)
    longest = longest_possible(model, tokenizer.model_max_length, words_read_the_rest=reads_rest)
    return covering_length(tokenize(tokenizer, texts, longest).lengths, longest) if texts else longest


def covering_length(lengths: np.ndarray, longest: int) -> int:
    """The length that 99 % of the texts do not exceed, rounded up to a multiple of 8.

    The longest percent of the texts costs more than it helps: it would make the batches that contain such a text
    several times as wide. Texts of a few words get at least 16 tokens, to leave room for longer texts later.

    Args:
        lengths: tokens of some texts, special ones included, at least one.
        longest: maximum tokens of the encoder.
    """
    long = float(np.quantile(lengths, _SHARE, method="higher"))
    rounded = _MULTIPLE * -(-int(long) // _MULTIPLE)
    return min(max(rounded, _LEAST), longest)


def _some_texts(source: Reader) -> Iterator[str]:
    """The first valid train texts."""
    left = _SAMPLE
    for chunk in source.chunks("train"):
        readable = [text for place, text in enumerate(chunk.texts) if place not in chunk.problems][:left]
        yield from readable
        left -= len(readable)
        if not left:
            return
