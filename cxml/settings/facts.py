"""What settings are chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """An encoder's architecture and what its files say of its pretraining.

    Attributes:
        num_layers: transformer layers.
        hidden_size: D.
        num_parameters: weights that every token passes, embeddings left out.
        pooling: how it was pretrained to make one feature of a text; None where its files do not say.
    """

    num_layers: int
    hidden_size: int
    num_parameters: int
    pooling: Literal["cls", "mean"] | None


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """Where the training runs.

    Attributes:
        has_accelerator: whether the processes compute on accelerators.
        free_bytes: memory that label rows may take on each process's device.
    """

    has_accelerator: bool
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A data set, seen as what settings depend on, with the encoder and the machine.

    Attributes:
        num_texts: texts to train on.
        num_labels: L, at least 1.
        texts_per_label: median over the labels that have any text.
        mean_length: tokens of a text, special ones included.
        long_length: tokens that 99 % of the texts do not exceed.
        name_pattern: regular expression whose first group is the part of a label's name to train on; empty if texts do
            not use the words of their labels' names.
        encoder: what reads the texts.
        machine: what computes.
    """

    num_texts: int
    num_labels: int
    texts_per_label: float
    mean_length: float
    long_length: int
    name_pattern: str
    encoder: EncoderFacts
    machine: MachineFacts
