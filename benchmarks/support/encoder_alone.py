"""The encoder of a training alone, with which whole steps are compared."""

import time
from collections.abc import Callable

import torch
from torch import nn

from cxml.model import TappedEncoder


class EncoderAlone(nn.Module):
    """An encoder with a simple loss that has gradients for all of it."""

    def __init__(self, encoder: TappedEncoder) -> None:
        """Take over an encoder."""
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss; see `TappedEncoder.forward`."""
        return torch.stack(self.encoder(input_ids, attention_mask)).sum()


def timed_pass(
    encoder: TappedEncoder, num_texts: int, length: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a forward and backward pass over random texts of one length, without padding, by a clock."""
    input_ids = torch.randint(1000, 30000, (num_texts, length))
    began = clock()
    (features,) = encoder(input_ids, torch.ones_like(input_ids))
    features.backward(torch.ones_like(features))
    return clock() - began
