"""Check with a few tokens that a pretrained encoder computes the features of a text from this text alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cxml.config import ModelConfig
from cxml.errors import ConfigError
from cxml.model.encoder import TappedEncoder

_TOKENS = 5  # of the text
_CLOSE = 1e-3
"""Relative tolerance of equal states in float32."""
_REMEDY = "Choose another encoder; docs/how-to/own-data.md lists the kinds that work."


def check_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Check that the encoder has an embedding for each token.

    Args:
        config: names the encoder.
        tokenizer: its tokenizer.
        vocabulary: its number of embeddings.

    Raises:
        ConfigError: a token has none.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(largest)
        problem = f"its tokenizer has the token {token!r} with the id {largest}, but it has {vocabulary} embeddings"
        raise ConfigError("model.encoder", config.encoder, problem, "Give the tokenizer that belongs to the weights.")


def check_features(config: ModelConfig, encoder: TappedEncoder, length: int, pad_id: int, *, pools: bool) -> None:
    """Check the hidden states of an encoder: their number and shapes, and that padding does not change them.

    Args:
        config: of the encoder.
        encoder: with its pretrained weights, in float32; it is set to evaluation mode.
        length: tokens of the padded text.
        pad_id: the token that pads.
        pools: whether `config.pooling` is the pooling of the run.

    Raises:
        ConfigError: the encoder fails; names the reason. Or the pooling takes a token that does not see the text.
    """
    encoder.eval()
    ids = _some_tokens(min(_TOKENS, length), encoder.transformer.config.vocab_size, pad_id)
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    try:
        # The long input is first, because BigBird changes its attention for good after a short one.
        padded = _states(encoder, F.pad(ids, (0, length - ids.shape[1]), value=pad_id), ids.shape[1])
        states, changed = _states(encoder, ids, ids.shape[1]), _states(encoder, other, ids.shape[1])
    except Exception as error:  # models raise errors of any kind
        problem = f"cannot read a text of {length} tokens ({type(error).__name__}: {str(error)[:200]})"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY) from error
    expected = (1, length, encoder.hidden_size)
    if len(padded) != encoder.transformer.config.num_hidden_layers + 1 or any(
        each.shape != expected for each in padded
    ):
        problem = f"does not return hidden states of shape {expected} for its input and each layer"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY)
    if not all(_are_close(each[:, : ids.shape[1]], alone) for each, alone in zip(padded, states, strict=True)):
        problem = "computes other features for a text if the text is padded to the length of others"
        raise ConfigError("model.encoder", config.encoder, problem, _REMEDY)
    deepest = max(max(tap) for tap in encoder.taps)
    if (
        pools
        and config.pooling == "cls"
        and ids.shape[1] > 1
        and torch.equal(states[deepest][:, 0], changed[deepest][:, 0])
    ):
        problem = "takes the first token, which does not see the rest of the text in this encoder"
        raise ConfigError("model.pooling", "cls", problem, "Set it to mean.")


def _some_tokens(count: int, vocabulary: int, pad_id: int) -> Tensor:
    """Random token ids without the one that pads, [1, count]."""
    generator = torch.Generator().manual_seed(0)
    return (pad_id + torch.randint(1, vocabulary, (1, count), generator=generator)) % vocabulary


def _states(encoder: TappedEncoder, ids: Tensor, num_tokens: int) -> Sequence[Tensor]:
    """The hidden states of a text of `num_tokens` tokens and padding."""
    mask = (torch.arange(ids.shape[1]) < num_tokens).long()[None]
    with torch.no_grad():
        return encoder.transformer(ids, attention_mask=mask, output_hidden_states=True).hidden_states


def _are_close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _CLOSE * expected.norm())  # False for NaN
