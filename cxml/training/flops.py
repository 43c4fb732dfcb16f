"""Floating-point operations of a training step, and model FLOP utilisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cxml.accelerators import peak_flops
from cxml.config import Config
from cxml.model import CascadeXML

_FORWARD, _BOTH = 2, 6  # a multiplication and an addition per weight; twice as many in the backward pass


@dataclass(frozen=True)
class StepFlops:
    """The operations of the model for texts, forward and backward, without padding and recomputed activations.

    Attributes:
        per_token: products with the encoder's matrices.
        per_pair: attention, for each pair of tokens of a text or window.
        per_text: the levels' scores, projections of joined layers, and the bottleneck.
    """

    per_token: float
    per_pair: float
    per_text: float

    def of(self, lengths: np.ndarray, num_texts: int) -> float:
        """The operations for B texts or their windows, with `lengths` tokens, int64 [B or n]."""
        tokens, pairs = float(lengths.sum()), float(np.square(lengths).sum())
        return self.per_token * tokens + self.per_pair * pairs + self.per_text * num_texts


@dataclass(frozen=True)
class Utilisation:
    """Model FLOP utilisation: the share of the devices' peak performance that a training uses.

    Attributes:
        flops: operations of the model.
        peak: peak operations per second of one device.
    """

    flops: StepFlops
    peak: float


def utilisation(model: CascadeXML, config: Config, device: torch.device) -> Utilisation | None:
    """The utilisation; None if the device's peak is unknown, and in fp32, which runs far below it."""
    peak = peak_flops(device)
    if peak is None or config.train.precision != "bf16":
        return None
    return Utilisation(step_flops(model, config), peak)


def step_flops(model: CascadeXML, config: Config) -> StepFlops:
    """Count the operations of a model from its weights' shapes."""
    transformer = model.encoder.transformer
    tables = [module for module in transformer.modules() if isinstance(module, nn.Embedding)]
    embedded = {id(parameter) for table in tables for parameter in table.parameters()}
    matrices = [p for p in transformer.parameters() if id(p) not in embedded and len(_shape(p)) > 1]
    maps = [*model.encoder.projections.parameters(), *model.encoder.bottleneck.parameters()]
    mapped = sum(_shape(p).numel() for p in maps if len(_shape(p)) > 1)
    width, layers = model.encoder.hidden_size, transformer.config.num_hidden_layers
    frozen = config.model.freeze_layers
    attention = 2 * width * (_BOTH * (layers - frozen) + _FORWARD * frozen)  # scores, and sums by their weights
    sizes = model.encoder.feature_sizes
    scored = sum(sizes[level] * _scored(model, level, config) for level in range(len(model.level_sizes)))
    return StepFlops(
        per_token=sum((_BOTH if p.requires_grad else _FORWARD) * _shape(p).numel() for p in matrices),
        per_pair=attention,
        per_text=_BOTH * (scored + mapped),
    )


def _scored(model: CascadeXML, level: int, config: Config) -> float:
    """Scored nodes of a level per text, assuming equal numbers of children."""
    sizes = model.level_sizes
    is_whole = level == 0 or (level == len(sizes) - 1 and config.head.candidates == "all")
    if is_whole:
        return sizes[level]
    above = sizes[level - 1]
    return min(model.shortlist_sizes[level - 1], above) * sizes[level] / above


def _shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of the whole parameter, also if ZeRO-3 has partitioned it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
