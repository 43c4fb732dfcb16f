"""Windows of texts that are longer than what the encoder sees at once: where they are cut, and whose they are.

A text of at most `WindowRule.size` tokens stays as it is. The tokens of a longer one, without the special tokens that
begin and end it, are cut into as few windows as hold them, of nearly equal lengths, and each window gets the text's
special tokens. All of it follows from lengths, so the host knows it before a batch goes to its device.
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
    """How texts are cut.

    Attributes:
        size: most tokens of a window, special ones included.
        begin: special tokens before each text, such as [CLS].
        end: special tokens after it, such as [SEP].
        pads: batches get windows that count for nothing, so that their numbers are few.
    """

    size: int
    begin: int
    end: int
    pads: bool = False

    def counts(self, lengths: np.ndarray) -> np.ndarray:
        """Windows of texts of so many tokens, int64 [N]."""
        added = self.begin + self.end
        return np.where(lengths > self.size, -(-(lengths - added) // (self.size - added)), 1)

    def widths(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens of the longest window of each text, int64 [N]."""
        counts, added = self.counts(lengths), self.begin + self.end
        return np.where(counts > 1, -(-(lengths - added) // counts) + added, lengths)

    def most_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """What a text adds to any batch in which none is longer, padding counted, at most, int64 [N]."""
        return np.where(lengths > self.size, self.counts(lengths) * self.size, lengths)

    def cut(self, tokens: Ragged) -> tuple[Ragged, np.ndarray]:
        """The windows of B texts, text after text, and how many each text has, int64 [B]."""
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
        """Windows of a batch, those included that only pad it, where its texts have `counts`, int64 [B].

        A number is rounded up to one of eight between a power of two and the next, and exceeds what `most_tokens`
        allows in no case.
        """
        total = int(counts.sum())
        if not self.pads:
            return total
        step = 1 << max(0, total.bit_length() - 4)
        return min(-(-total // step) * step, len(counts) * int(counts.max(initial=1)))


@dataclass(frozen=True)
class Windows:
    """Whose the windows of a batch are; those of a text lie next to each other, texts in their order.

    Attributes:
        texts: int64 [n], the text of each window; B for a window that only pads the batch.
        counts: int64 [B], windows of each text, in host memory.
        lengths: int64, tokens of each window that is not there to pad the batch, in host memory.
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
        """Those of the first texts."""
        num_windows = int(self.counts[:num_texts].sum())
        return Windows(self.texts[:num_windows], self.counts[:num_texts], self.lengths[:num_windows])


def window_rule(
    config: Config, tokenizer: Tokenizer | None = None, *, device: torch.device | None = None
) -> WindowRule | None:
    """The rule of a run; None where the encoder sees every text whole.

    Args:
        config: of the run.
        tokenizer: of the encoder; None: load that of `model.encoder`.
        device: where batches go; None is the CPU, which computes just the windows that there are.

    Raises:
        ConfigError: the special tokens fill the window, or the tokenizer is missing.
    """
    size = config.tokens_at_once
    if size == config.data.max_length:
        return None
    begin, end = _special_tokens(tokenizer or _tokenizer_of(config), size)
    if size <= begin + end:
        problem = f"has no room beside the {begin + end} special tokens of each window"
        raise ConfigError("model.window", size, problem, "Set it to what the encoder sees at once, such as 256.")
    return WindowRule(size, begin, end, pads=device is not None and device.type != "cpu")


def _special_tokens(tokenizer: Tokenizer, size: int) -> tuple[int, int]:
    """How many special tokens begin a text, and how many end it; `size` is that of the windows."""
    found = tokenizer.encode(_WORD)
    marks = zip(found.special_tokens_mask, found.attention_mask, strict=True)
    is_special = [special for special, shown in marks if shown]  # a tokenizer may be set to pad
    places = [place for place, special in enumerate(is_special) if not special]
    if not places:
        problem = f"the encoder's tokenizer finds no token in {_WORD!r}, so its special tokens cannot be told apart"
        raise ConfigError("model.window", size, problem, "Leave it out.")
    return places[0], len(is_special) - 1 - places[-1]


def _tokenizer_of(config: Config) -> Tokenizer:
    from cxml.data.pretrained import load_pretrained_tokenizer  # noqa: PLC0415 - importing transformers takes seconds

    model = config.model
    loaded = load_pretrained_tokenizer(model.encoder, trust_remote_code=model.trust_remote_code)
    return cast("Tokenizer", loaded.backend_tokenizer)
