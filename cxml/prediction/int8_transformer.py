"""A transformer in int8, computed by onnxruntime on a CPU: `cxml.prediction.int8_conversion` makes its model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import onnxruntime
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cxml.internals.torch import with_modules
from cxml.model import TappedEncoder
from cxml.prediction.int8_conversion import int8_model, tapped_layers
from cxml.prediction.onnx_encoder import INPUTS

_MOST_SCORES = 16_777_216  # attention scores at once, 4 bytes each
_log = logging.getLogger(__name__)


def with_int8_transformer(encoder: TappedEncoder) -> TappedEncoder:
    """A copy of an encoder whose transformer computes its linear layers in int8.

    Each output of a linear layer has its own scale for its weights. The scale of a layer's inputs is that of the
    largest among all texts of a batch, so the features of a text depend slightly on the other texts.

    Args:
        encoder: in float32, on the CPU. The copy shares its projections.

    Raises:
        CxmlError: see `int8_model`.
    """
    _log.info("Converting the encoder to int8")
    transformer = cast(PreTrainedModel, Int8Transformer(encoder.eval()))
    return with_modules(encoder, {"transformer": transformer})


@dataclass(frozen=True)
class _States:
    """Hidden states by layer, float32 [B, T, D] each; 0 is the embeddings."""

    hidden_states: dict[int, Tensor]


class Int8Transformer(nn.Module):
    """Takes the place of the transformer of a `TappedEncoder` in prediction.

    Attributes:
        config: config of the transformer.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, encoder: TappedEncoder) -> None:
        super().__init__()
        self.config = encoder.transformer.config
        self._layers = tapped_layers(encoder)
        self._model = int8_model(encoder)
        self._open()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: bool) -> _States:
        """The hidden states of the tapped layers. Few long texts are computed at once, to bound the memory."""
        scores = getattr(self.config, "num_attention_heads", 1) * input_ids.shape[1] ** 2
        parts = zip(*(each.split(max(1, _MOST_SCORES // scores)) for each in (input_ids, attention_mask)), strict=True)
        found = [self._run(*part) for part in parts]
        return _States(
            {layer: torch.cat(own) for layer, own in zip(self._layers, zip(*found, strict=True), strict=True)}
        )

    def _run(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        inputs = {name: each.numpy() for name, each in zip(INPUTS, (input_ids, attention_mask), strict=True)}
        return [torch.from_numpy(each) for each in self._session.run(None, inputs)]

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False  # batches have many shapes
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

    def __getstate__(self) -> dict[str, Any]:
        """State for a pickle or a copy, which opens a session of its own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open()
