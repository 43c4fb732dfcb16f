"""Run the cascade over texts: token ids, batches of similar lengths, and the best labels or features of each batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cxml.data import Batch, BatchLimits, Ragged, TextEncoder, collate, cut, lengths_to_offsets, window_rule
from cxml.errors import ConfigError
from cxml.evidence import TextViews
from cxml.model import CascadeXML, TappedEncoder, host_features, on_host
from cxml.parallel import Exchange
from cxml.prediction.arguments import refuse_surrogates
from cxml.prediction.packed_rows import prediction_head
from cxml.prediction.parts import Parts

_ONE_TOKEN = Ragged(np.zeros(1, np.int32), np.array([0, 1]))


class CascadeRunner:
    """Runs a model's cascade over texts.

    Attributes:
        model: a copy of the model, because each runner of the same parts has its own label head.
        is_weighted: whether a score is the label's probability times that of the cluster above it.
    """

    def __init__(
        self, parts: Parts, encoder: TappedEncoder, *, batch_size: int, device: torch.device, exchange: Exchange
    ) -> None:
        """Prepare the model for prediction.

        Args:
            parts: the model.
            encoder: its encoder in the precision of prediction, see `encoder_in`.
            batch_size: texts per batch.
            device: device of the encoder.
            exchange: the ranks that share the label rows.
        """
        self._parts, self._batch_size, self._device, self._exchange = parts, batch_size, device, exchange
        self._encoder = TextEncoder(parts.tokenizer, parts.config.data.max_length)
        self._windows = window_rule(parts.config, parts.tokenizer, device=device)
        scores_all = parts.config.head.candidates == "all"
        model = parts.model.predicting_with(encoder)
        model.label_head = prediction_head(parts.rows, parts.layout, exchange, scores_all=scores_all)
        self.model = cast(CascadeXML, model.to(device).eval())
        self.is_weighted = model.scoring == "weighted" and not scores_all

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Token ids of texts, including special tokens, int32; an empty text gets a padding token.

        Raises:
            ConfigError: a text is not valid Unicode.
        """
        try:
            tokens = self._encoder.encode(texts)
        except (TypeError, UnicodeError):
            refuse_surrogates(texts)
            raise
        is_empty = tokens.lengths == 0
        values = np.insert(tokens.values, tokens.offsets[:-1][is_empty], self._parts.pad_id)
        return Ragged(values, lengths_to_offsets(tokens.lengths + is_empty))

    def batches(self, tokens: Ragged) -> Iterator[tuple[np.ndarray, Batch]]:
        """Row numbers and their batch, longest texts first; every rank gets the same number of batches.

        A rank without a text for a batch gets no row numbers, and a batch of one token.

        Raises:
            ConfigError: a token id is outside the encoder's vocabulary.
            DataError: the mapped file of the label rows has changed.
        """
        vocabulary = self.model.encoder.transformer.config.vocab_size
        if len(tokens.values) and not 0 <= tokens.values.min() <= tokens.values.max() < vocabulary:
            raise ConfigError(
                "tokens", int(tokens.values.max()), f"the encoder's tokens are 0 to {vocabulary - 1}",
                "Use the tokenizer that the model was trained with.",
            )  # fmt: skip
        longest_first = np.argsort(-tokens.lengths, kind="stable")
        most = int(self._exchange.gather_sizes(len(tokens)).max())
        num_batches = math.ceil(most / self._batch_size)
        bounds = cut(len(tokens), num_batches) if most else np.zeros(1, np.int64)
        limits = BatchLimits(texts=max(1, math.ceil(most / max(1, num_batches))), labels=0, labels_of_a_text=0)
        for start, stop in pairwise(bounds):
            rows = longest_first[start:stop]
            own = tokens.take(rows) if len(rows) else _ONE_TOKEN
            none = Ragged(np.zeros(0, np.int32), np.zeros(len(own) + 1, np.int64))
            self._parts.check_rows()  # immediately before reading
            batch = collate(
                own, none, pad_id=self._parts.pad_id, global_size=len(own), limits=limits, rule=self._windows
            )  # fmt: skip
            yield rows, batch.to(self._device)
            self._parts.check_rows()  # discards results if the rows changed in the meantime

    def best_labels(
        self, tokens: Ragged, k: int, beam: tuple[int, ...], views: TextViews
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best labels of N texts, int64 [N, k], and their logits, float32; -1 and -inf for none.

        `views.features`, if not None, is filled with the texts' features.
        """
        labels = np.full((len(tokens), k), -1, np.int64)
        logits = np.full((len(tokens), k), -np.inf, np.float32)
        for rows, batch in self.batches(tokens):
            labels[rows], logits[rows] = self.best_of_batch(rows, batch, k, beam, views)
        return labels, logits

    def best_of_batch(
        self, rows: np.ndarray, batch: Batch, k: int, beam: tuple[int, ...], views: TextViews
    ) -> tuple[np.ndarray, np.ndarray]:
        """`best_labels` for the texts `rows` in a batch of `batches`."""
        (best,) = on_host(self.model(batch, predict_k=k, beam=beam)[-1:])
        if views.features is not None:
            views.features[rows] = host_features(best, len(rows))
        return best.nodes[: len(rows)].numpy(), best.logits[: len(rows)].numpy()

    def features(self, tokens: Ragged) -> np.ndarray:
        """The input features of the label level of N texts, float32 [N, D]."""
        features = np.zeros((len(tokens), self.model.encoder.feature_sizes[-1]), np.float32)
        for rows, batch in self.batches(tokens):
            last: Tensor = self.model.encoder(batch.input_ids, batch.attention_mask, batch.windows)[-1]
            features[rows] = last[: len(rows)].float().cpu().numpy()
        return features
