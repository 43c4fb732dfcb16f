"""The encoder of a training as a model of its own, with which whole steps are compared."""

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
