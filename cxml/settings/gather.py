"""Collect the facts from the data, the encoder's files and the machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cxml import extras
from cxml.accelerators import accelerator_type, device_of
from cxml.config import Config, HeadConfig, ModelConfig
from cxml.data import VALIDATION, DataManifest, Ragged, ShardedDataset, data_url, read_label_table
from cxml.data.pretrained import (
    outline_of,
    read_num_positions,
    read_pooling,
    read_sentence_length,
)
from cxml.model import find_layers
from cxml.operating_system import free_memory
from cxml.settings.facts import EncoderFacts, Facts, MachineFacts
from cxml.settings.names import NameOverlap, overlap_of_names

_MOST_LENGTHS = 2_000_000  # of texts, so that this takes seconds
_MOST_TEXTS = 20_000  # read to compare with the label names
_MOST_WINDOWS = 8  # of a text; each costs as much as the first
_MOST_TOKENS = 512  # the cost grows with it; longer inputs must be set explicitly
MOST_TOKENS_ON_CPU = 128
"""Most tokens of a text on a CPU if `evidence.words` reads the rest, see decision 28."""


def prepared_facts(config: Config) -> Facts:
    """The facts of the prepared data set of `config`.

    Raises:
        DataError: it is missing or damaged.
        ConfigError: the encoder cannot be read.
    """
    url = data_url(config)
    manifest, table = DataManifest.read(url), read_label_table(url)
    split = ShardedDataset(url, "train")
    rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), _MOST_TEXTS), dtype=np.int64))
    is_asked = split.has_texts and not {"train.name_texts", "evidence.names"}.isdisjoint(config.auto)
    texts, labels = (split.texts(rows), split.gather(rows)[1]) if is_asked else ([], Ragged.from_lists([]))
    return facts_of(
        config, num_texts=manifest.rows("train"),
        num_validation=manifest.rows(VALIDATION) if VALIDATION in manifest.splits else 0,
        words_per_text=float(split.feature_counts.mean()) if manifest.vocabulary else 0.0,
        lengths=split.lengths[:_MOST_LENGTHS], frequency=table.frequency, names=table.words.titles, texts=texts,
        labels=labels,
    )  # fmt: skip


def facts_of(
    config: Config,
    *,
    num_texts: int,
    num_validation: int,
    words_per_text: float,
    lengths: np.ndarray,
    frequency: np.ndarray,
    names: Sequence[str],
    texts: Sequence[str],
    labels: Ragged,
) -> Facts:
    """Compute the facts from statistics of a data set.

    Args:
        config: of the run.
        num_texts: train texts, including those held out for validation.
        num_validation: texts of the split of validation texts; 0 without one.
        words_per_text: mean number of different words of a text; 0 without a vocabulary.
        lengths: int64 [n], tokens of some train texts.
        frequency: int64 [L], train texts of each label.
        names: of the L labels; their titles where they have some.
        texts: some train texts, to compare the names with.
        labels: label ids of each of these.
    """
    seen = frequency[frequency > 0]
    fit = overlap_of_names(names, texts, labels) if len(texts) else NameOverlap("", describes=False)
    return Facts(
        num_texts=num_texts,
        num_validation=num_validation,
        words_per_text=words_per_text,
        num_labels=len(frequency),
        texts_per_label=float(np.median(seen)) if len(seen) else 0.0,
        mean_length=float(lengths.mean()),
        long_length=int(np.quantile(lengths, 0.99, method="higher")),
        name_pattern=fit.pattern,
        names_describe=fit.describes,
        encoder=encoder_facts(config.model),
        machine=machine_facts(config.head),
    )


def encoder_facts(model: ModelConfig) -> EncoderFacts:
    """The facts of an encoder, without loading its weights. Raises `ConfigError` if it cannot be read."""
    outline = outline_of(model)
    layers, width = outline.config.num_hidden_layers, outline.config.hidden_size
    return EncoderFacts(
        num_layers=layers,
        hidden_size=width,
        num_parameters=12 * layers * width**2,  # 4 attention projections, 2 of 4x width
        has_separate_layers=find_layers(outline) is not None,
        pooling=read_pooling(model),
    )


def longest_possible(model: ModelConfig, tokenizer_limit: int, *, words_read_the_rest: bool = False) -> int:
    """Most tokens of a text: the encoder's pretraining length, its positions, or 512; with windows, 8 of them.

    Args:
        model: names the encoder.
        tokenizer_limit: limit of its tokenizer, without reserved positions.
        words_read_the_rest: whether `evidence.words` reads whole texts. A CPU then encodes at most 128 tokens.

    Raises:
        ConfigError: the encoder cannot be read.
    """
    if model.window:
        return _MOST_WINDOWS * model.window
    positions = read_num_positions(model)
    known = [each for each in (read_sentence_length(model), positions, tokenizer_limit) if each is not None]
    is_slow = words_read_the_rest and accelerator_type() is None
    return min([*known, MOST_TOKENS_ON_CPU if is_slow else _MOST_TOKENS])


def machine_facts(head: HeadConfig) -> MachineFacts:
    """The facts of this machine, for label rows as configured by `head`."""
    has_accelerator = accelerator_type() is not None
    if accelerator_type() == "cuda" and head.rows_in == "device":
        free = torch.cuda.get_device_properties(device_of(0)).total_memory
    else:
        free = free_memory()
    return MachineFacts(has_accelerator=has_accelerator, free_bytes=free, has_faiss=extras.is_installed("faiss"))
