"""Split texts that are longer than the encoder's input into windows.

A text of at most `WindowRule.size` tokens is not changed. The tokens of a longer text, without the special tokens at
its start and end, are split into as few windows as possible, of nearly equal lengths, and each window gets the text's
special tokens. The split depends only on lengths, so the host knows it before a batch is copied to its device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from cxml.config import Config
from cxml.data.ragged import Ragged, lengths_to_offsets, range_indices
from cxml.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

_WORD = "a"


@dataclass(frozen=True)
class WindowRule:
    """The rule for splitting texts.

    Attributes:
        size: most tokens of a window, including special tokens.
        begin: special tokens before each text, such as [CLS].
        end: special tokens after it, such as [SEP].
        pads: pad batches with empty windows to reduce the number of different sizes.
    """

    size: int
    begin: int
    end: int
    pads: bool = False

    def counts(self, lengths: np.ndarray) -> np.ndarray:
        """Number of windows of texts with `lengths` tokens, int64 [N]."""
        added = self.begin + self.end
        return np.where(lengths > self.size, -(-(lengths - added) // (self.size - added)), 1)

    def widths(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens of the longest window of each text, int64 [N]."""
        counts, added = self.counts(lengths), self.begin + self.end
        return np.where(counts > 1, -(-(lengths - added) // counts) + added, lengths)

    def most_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Most tokens, including padding, that each text adds to a batch in which it is the longest, int64 [N]."""
        return np.where(lengths > self.size, self.counts(lengths) * self.size, lengths)

    def cut(self, tokens: Ragged) -> tuple[Ragged, np.ndarray]:
        """The windows of B texts in text order, and the number of windows of each text, int64 [B]."""
        counts = self.counts(tokens.lengths)
        text = np.repeat(np.arange(len(tokens)), counts)
        number = np.arange(len(text)) - lengths_to_offsets(counts)[text]
        is_cut, starts, lengths = counts[text] > 1, tokens.offsets[text], tokens.lengths[text]
        begin, end = self.begin * is_cut, self.end * is_cut
        own = lengths - begin - end
        first, last = own * number // counts[text], own * (number + 1) // counts[text]
        range_starts = np.stack([starts, starts + begin + first, starts + lengths - end], 1)
        range_lengths = np.stack([begin, last - first, end], 1)
        values = tokens.values[range_indices(range_starts.ravel(), range_lengths.ravel())]
        return Ragged(values, lengths_to_offsets(range_lengths.sum(1))), counts

    def padded(self, counts: np.ndarray) -> int:
        """Number of windows of a batch including empty ones, for texts with `counts` windows, int64 [B].

        The number is rounded up to one of eight values between a power of two and the next, and never exceeds the bound
        of `most_tokens`.
        """
        total = int(counts.sum())
        if not self.pads:
            return total
        step = 1 << max(0, total.bit_length() - 4)
        return min(-(-total // step) * step, len(counts) * int(counts.max(initial=1)))


@dataclass(frozen=True)
class Windows:
    """The texts of a batch's windows. The windows of a text are adjacent, in text order.

    Attributes:
        texts: int64 [n], the text of each window; B for an empty window.
        counts: int64 [B], number of windows of each text, in host memory.
        lengths: int64, tokens of each non-empty window, in host memory.
    """

    texts: torch.Tensor
    counts: np.ndarray
    lengths: np.ndarray

    def sum(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Sums over the windows of each text, [B, X], of values [n, X]."""
        num_texts = len(self.counts)
        sums = values_NX.new_zeros(num_texts + 1, *values_NX.shape[1:])
        return sums.index_add(0, self.texts, values_NX)[:num_texts]

    def first(self, num_texts: int) -> Windows:
        """The windows of the first texts."""
        num_windows = int(self.counts[:num_texts].sum())
        return Windows(self.texts[:num_windows], self.counts[:num_texts], self.lengths[:num_windows])


def window_rule(
    config: Config, tokenizer: Tokenizer | None = None, *, device: torch.device | None = None
) -> WindowRule | None:
    """The rule of a run; None if every text fits the encoder.

    Args:
        config: the run's config.
        tokenizer: tokenizer of the encoder; None loads that of `model.encoder`.
        device: device of the batches; None for the CPU, which needs no empty windows.

    Raises:
        ConfigError: the special tokens fill the window, or the tokenizer is missing.
    """
    size = config.tokens_at_once
    if size == config.data.max_length:
        return None
    begin, end = _special_tokens(tokenizer or _tokenizer_of(config), size)
    if size <= begin + end:
        problem = f"leaves no room for text beside the {begin + end} special tokens of each window"
        raise ConfigError("model.window", size, problem, "Set it to the encoder's input length, such as 256.")
    return WindowRule(size, begin, end, pads=device is not None and device.type != "cpu")


def _special_tokens(tokenizer: Tokenizer, size: int) -> tuple[int, int]:
    """The numbers of special tokens at the start and end of a text; `size` is the size of the windows."""
    found = tokenizer.encode(_WORD)
    marks = zip(found.special_tokens_mask, found.attention_mask, strict=True)
    is_special = [special for special, shown in marks if shown]  # a tokenizer may be configured to pad
    places = [place for place, special in enumerate(is_special) if not special]
    if not places:
        problem = f"the encoder's tokenizer finds no token in {_WORD!r}, so its special tokens cannot be identified"
        raise ConfigError("model.window", size, problem, "Leave it out.")
    return places[0], len(is_special) - 1 - places[-1]


def _tokenizer_of(config: Config) -> Tokenizer:
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415 - importing transformers takes seconds

    model = config.model
    loaded = load_pretrained_tokenizer(model.encoder, trust_remote_code=model.trust_remote_code)
    return cast("Tokenizer", loaded.backend_tokenizer)
