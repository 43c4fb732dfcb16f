"""The facts that settings are chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """An encoder's architecture and its pretraining as described in its files.

    Attributes:
        num_layers: transformer layers.
        hidden_size: D.
        num_parameters: weights of the layers, without the embeddings.
        has_separate_layers: whether some of its layers can be frozen.
        pooling: pooling of its pretraining; None if its files do not specify it.
    """

    num_layers: int
    hidden_size: int
    num_parameters: int
    has_separate_layers: bool
    pooling: Literal["cls", "mean"] | None


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The machine of the training.

    Attributes:
        has_accelerator: whether the processes use accelerators.
        free_bytes: memory for label rows on each process's device.
        has_faiss: whether faiss is installed, which searches for neighbours and names.
    """

    has_accelerator: bool
    free_bytes: int
    has_faiss: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about the data set, the encoder and the machine on which settings depend.

    Attributes:
        num_texts: train texts, including those that a run holds out for validation.
        num_validation: texts of the data set's split of validation texts; 0 if it has none.
        words_per_text: mean number of different words of a text; 0 if the data set does not keep its vocabulary.
        num_labels: L, at least 1.
        texts_per_label: median over the labels that have texts.
        mean_length: mean tokens per text, including special tokens.
        long_length: 99th percentile of the tokens per text.
        name_pattern: regular expression whose first group is the part of a label's name to train on; empty if texts do
            not use the words of their labels' names.
        names_describe: whether texts use the words of their labels' names.
        encoder: the encoder.
        machine: the machine.
    """

    num_texts: int
    num_validation: int
    words_per_text: float
    num_labels: int
    texts_per_label: float
    mean_length: float
    long_length: int
    name_pattern: str
    names_describe: bool
    encoder: EncoderFacts
    machine: MachineFacts
