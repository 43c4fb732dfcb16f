"""A trained model for prediction, with its tokenizer, its tree and the names of its labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from os import PathLike
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cxml import extras, storage
from cxml.accelerators import device_of, encoder_dtype
from cxml.config import PrecisionChoice
from cxml.data import Batch, BatchLimits, Ragged, TextEncoder, collate, cut, lengths_to_offsets, window_rule
from cxml.errors import ConfigError
from cxml.evidence import TextViews
from cxml.metrics import metric_sums
from cxml.model import CascadeXML, LevelPrediction, host_features, on_host
from cxml.model.ranking import probabilities
from cxml.parallel import Exchange
from cxml.prediction.decisions import as_threshold
from cxml.prediction.encoder_program import refuse_windows
from cxml.prediction.explanations import explain_batch
from cxml.prediction.export import is_exported, write_exported
from cxml.prediction.hub import download, is_repository_name
from cxml.prediction.inputs import (
    as_beam,
    as_device,
    as_excluded,
    as_finite,
    as_label_ids,
    as_precision,
    as_texts,
    as_url,
    as_whole_number,
    indicators_of,
    refuse_surrogates,
)
from cxml.prediction.loading import load_parts
from cxml.prediction.packed_rows import RowFormat, prediction_head
from cxml.prediction.parts import Parts, no_model, refuse_file
from cxml.prediction.ranker import Ranker, looked_up, without
from cxml.prediction.results import ExplainedLabel, Predictions
from cxml.prediction.subset import restrict


class Predictor:
    """A trained model, ready to predict.

    Texts are sorted by length and split into batches of similar lengths, as in evaluation, so both give the same
    numbers. It is thread-safe. Do not fork a process that has predicted: the threads of PyTorch and numba are missing
    in the child, which hangs. Start processes with the method "spawn" and load a predictor in each.

    If several ranks load it together, each holds a shard of the label rows, and every predicting method is a collective
    call: all ranks call it, each with its own texts.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        calibrated: bool = False,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        precision: PrecisionChoice | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Use `from_checkpoint` or `from_pretrained`."""
        self.parts = parts
        self.calibrated = calibrated
        if calibrated and parts.decisions.calibration is None:
            problem = "this model has no calibration of its scores"
            remedy = "Evaluate a run that has validation texts (train.validation_fraction): python -m cxml.evaluate."
            raise ConfigError("calibrated", calibrated, problem, remedy)
        self.batch_size = as_whole_number("batch_size", batch_size)
        self.device = device_of(0) if device is None else as_device(device)
        self._exchange = exchange or Exchange(is_alone=True)
        self._encoder = TextEncoder(parts.tokenizer, parts.config.data.max_length)
        self._windows = window_rule(parts.config, parts.tokenizer, device=self.device)
        self._ranker = self._ranker_of(np.arange(parts.tree.num_labels))
        self._scores_all = parts.config.head.candidates == "all"
        self.precision: PrecisionChoice = as_precision(precision or parts.config.evaluate.precision)
        # A copy, because another predictor of the same parts has its own head.
        model = parts.model.predicting_in(encoder_dtype(self.precision, self.device))
        model.label_head = prediction_head(parts.rows, parts.layout, self._exchange, scores_all=self._scores_all)
        self._model = cast(CascadeXML, model.to(self.device).eval())

    @classmethod
    def from_checkpoint(
        cls,
        url: str | PathLike[str],
        *,
        rows: RowFormat | None = None,
        logit_adjustment: float = 0.0,
        propensity_ranking: float = 0.0,
        evidence: bool = True,
        calibrated: bool = False,
        memory_map: bool = False,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        precision: PrecisionChoice | None = None,
        exchange: Exchange | None = None,
    ) -> Predictor:
        """Load a model.

        Args:
            url: a run's output, its model folder, one of its checkpoints, or an exported folder; path or fsspec URL.
            rows: number format of the label rows; None leaves it as stored.
            logit_adjustment: ranks rare labels higher; see `cxml.prediction.adjust_logits`. Not for exported folders.
            propensity_ranking: ranks by score times this power of the inverse propensity; see
                `cxml.prediction.weigh_labels`. Not for exported folders.
            evidence: also use the sources beside the cascade, if the model has any (the config's section evidence).
                False uses only the cascade, without thresholds and calibration, which were chosen for all parts
                together.
            calibrated: return probabilities as scores: the share of true labels among validation texts at each score.
                The order of the scores does not change. Not with logit_adjustment or propensity_ranking.
            memory_map: memory-map the label rows of an exported local folder; all processes of the machine share them.
            batch_size: texts per batch.
            device: device of the encoder, such as "cpu" or "cuda:1"; None uses the accelerator if there is one.
            precision: number format of the encoder: `fp32`, `bf16`, or `auto`, which is bf16 if the device supports
                fast bf16 (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16); None uses the run's
                evaluate.precision.
            exchange: the ranks that share the label rows; None for this process only.

        Raises:
            DataError: the model at `url` is missing or incomplete.
            StaleArtefactError: its tree or tokenizer has changed.
            ConfigError: the label rows cannot be mapped or adjusted, the labels cannot be weighted, the model has no
                calibration, or this machine does not have the device.
        """
        url = as_url(url)
        refuse_file(url)
        device = None if device is None else as_device(device)
        batch_size = as_whole_number("batch_size", batch_size)
        precision = None if precision is None else as_precision(precision)
        logit_adjustment = as_finite("logit_adjustment", logit_adjustment)
        propensity_ranking = as_finite("propensity_ranking", propensity_ranking)
        exchange = exchange or Exchange(is_alone=True)
        parts = load_parts(
            url, exchange, rows=rows, logit_adjustment=logit_adjustment, propensity_ranking=propensity_ranking,
            evidence=evidence, memory_map=memory_map,
        )  # fmt: skip
        return cls(
            parts, calibrated=calibrated, batch_size=batch_size, device=device, precision=precision, exchange=exchange
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Predictor:
        """`from_checkpoint` for an exported folder or, if the folder does not exist, a hub repository.

        Args:
            name: path, fsspec URL, or `owner/name` on the Hugging Face hub.
            revision: branch, tag or commit of the repository.
            **options: options of `from_checkpoint`.

        Raises:
            DataError: the location contains no exported model; describes its content.
        """
        name = as_url(name, "name")
        refuse_file(name, is_for_export=True)
        if is_exported(name):
            return cls.from_checkpoint(name, **options)
        if storage.exists(name) or not is_repository_name(name):
            raise no_model(name, is_for_export=True)
        return cls.from_checkpoint(download(name, revision), **options)

    def save_pretrained(self, folder: str | PathLike[str], *, rows: RowFormat | None = None) -> None:
        """Export a self-contained folder; see `cxml.prediction.write_exported`.

        Raises:
            ConfigError: other ranks hold some of the label rows.
        """
        folder = as_url(folder, "folder")
        write_exported(folder, self._whole_parts("save_pretrained", rows))

    def save_onnx(self, folder: str | PathLike[str], *, rows: RowFormat | None = None) -> None:
        """Export a folder that predicts with onnxruntime only; see `cxml.prediction.onnx_export.write_onnx`.

        Raises:
            ConfigError: other ranks hold some of the label rows, a package of the extra `onnx` is missing, or the
                model has evidence or windows, which this form does not support.
        """
        if self.parts.evidence is not None:
            names = " and ".join(self.parts.evidence.names)
            raise ConfigError(
                "form", "onnx", f"does not support the {names} of this model",
                "Load the model with evidence=False (python -m cxml.export --no-evidence) to export only the cascade.",
            )  # fmt: skip
        refuse_windows(self.parts.config, "form", "onnx")
        folder = as_url(folder, "folder")
        extras.require("save_onnx", folder, *extras.EXTRAS["onnx"])
        from cxml.prediction.onnx_export import write_onnx  # noqa: PLC0415 - optional

        parts = self._whole_parts("save_onnx", rows)
        write_onnx(folder, parts, Predictor(parts, device="cpu", precision="fp32").predict_tokens)

    def _whole_parts(self, what: str, rows: RowFormat | None) -> Parts:
        """The parts with labels numbered from 0 and rows in a number format (None: unchanged); `what` is for errors."""
        self._require_all_rows(what)
        self.parts.check_rows()
        weights = self.parts.label_weights
        parts = replace(
            self.parts,
            names=[self.names[label] for label in self._ranker.label_ids.tolist()],
            titles=None if self.titles is None else [self.titles[label] for label in self._ranker.label_ids.tolist()],
            label_weights=None if weights is None else weights[self._ranker.label_ids],
            decisions=self.parts.decisions.renumbered(self._ranker.label_ids),
        )
        return parts if rows is None else replace(parts, rows=parts.rows.to(rows))

    @property
    def model(self) -> CascadeXML:
        """The model with its label head."""
        return self._model

    @property
    def names(self) -> Sequence[str]:
        """The unique name of each label id, as the labels are written in the data."""
        return self.parts.names

    @property
    def titles(self) -> Sequence[str] | None:
        """Title of each label id, the meaning of the label in words; None if the data had no labels file."""
        return self.parts.titles

    def predict(
        self,
        texts: Iterable[str],
        k: int = 5,
        *,
        threshold: float | str | None = None,
        beam: tuple[int, ...] = (),
        excluded: Mapping[int, Sequence[int]] | None = None,
    ) -> Predictions:
        """The k best labels of each text, or those of them that reach a threshold.

        Args:
            texts: N texts: a list, tuple, generator, NumPy array, pandas Series or Arrow array of strings. Texts
                are truncated to the training length.
            k: most labels per text.
            threshold: lowest score of a label, from 0 to 1; or the name of a threshold that was chosen for this model
                on validation texts: `micro-f1`, `macro-f1`, `precision`. None: no threshold.
            beam: beam width of each level of the tree above the labels; empty uses the training's.
            excluded: label ids to exclude, by the position of their text in `texts`.

        Returns:
            Label ids and scores [N, min(k, number of labels)], padded with -1 and 0.

        Raises:
            ConfigError: k, the threshold, the beam or `excluded` is invalid, or an item of `texts` is not a string;
                names its position.
        """
        strings = as_texts(texts)
        tokens, words = self._encode(strings), self._words_of(strings)
        return self.predict_tokens(tokens, k, threshold=threshold, beam=beam, excluded=excluded, words=words)

    def evaluate(
        self, texts: Iterable[str], labels: Sequence[Iterable[str] | str], ks: Sequence[int] = (1, 3, 5)
    ) -> dict[str, float]:
        """Evaluate the model's rankings on labelled texts.

        Args:
            texts: N texts, see `predict`.
            labels: for each text the names of its labels, or one name. Names that the model does not have count as
                misses.
            ks: the cut-offs.

        Returns:
            P@k, RP@k, recall@k and nDCG@k in percent, by name.

        Raises:
            ConfigError: the numbers of labels and texts differ, there are no texts, or a k is invalid.
        """
        cutoffs = [as_whole_number("ks", k) for k in ks]
        found = self.predict(texts, max(cutoffs))
        names = [[each] if isinstance(each, str) else [str(name) for name in each] for each in labels]
        if len(names) != len(found) or not names:
            problem = f"has labels for {len(names)} texts, but there are {len(found)} texts"
            raise ConfigError("labels", f"{len(names)} items", problem, "Give the labels of each text.")
        true = indicators_of(names, self.names)
        return metric_sums(found.labels, true, cutoffs).result()

    @torch.inference_mode()
    def predict_tokens(
        self,
        tokens: Ragged,
        k: int,
        *,
        threshold: float | str | None = None,
        beam: tuple[int, ...] = (),
        excluded: Mapping[int, Sequence[int]] | None = None,
        words: sparse.csr_matrix | None = None,
    ) -> Predictions:
        """`predict` for token ids of N texts, including special tokens.

        `words`: the texts' tf-idf, CSR float32 [N, F], by the vocabulary of the model (`parts.evidence.vocabulary`),
        which a model with words needs.
        """
        k, beam = self._checked(k, beam)
        self._require_words(words, len(tokens))
        least = as_threshold(threshold, self.parts.decisions)
        excluded = as_excluded(excluded, len(tokens), len(self.names))
        most = max((len(labels) for labels in excluded.values()), default=0)
        wanted = self._ranker.num_candidates(k, least, int(self._exchange.gather_sizes(most).max()))
        candidates = self._ranker.num_of_cascade(wanted)
        labels = np.full((len(tokens), candidates), -1, np.int64)
        logits = np.full((len(tokens), candidates), -np.inf, np.float32)
        views = TextViews(words, self._no_features(len(tokens)))
        for rows, batch in self._batches(tokens):
            (best,) = on_host(self._model(batch, predict_k=candidates, beam=beam)[-1:])
            labels[rows] = best.nodes[: len(rows)].numpy()
            logits[rows] = best.logits[: len(rows)].numpy()
            if views.features is not None:
                views.features[rows] = host_features(best, len(rows))
        labels, logits = self._ranker.ranked(*self._ranker.with_evidence(labels, logits, views, wanted))
        labels, scores = without(labels, probabilities(torch.from_numpy(logits)).numpy(), excluded)
        labels, scores = self._ranker.decided(labels, scores, least)
        return Predictions(labels[:, :k], scores[:, :k], self.names, self.titles)

    @torch.inference_mode()
    def explain(
        self, texts: Iterable[str], k: int = 5, *, threshold: float | str | None = None, beam: tuple[int, ...] = ()
    ) -> list[list[ExplainedLabel]]:
        """Like `predict`, with the clusters above each label and the cascade's probabilities.

        In a model with evidence, the score of a label comes from all parts, but its `probability` only from the
        cascade; it is 0 if the cascade does not propose the label.
        """
        k, beam = self._checked(k, beam)
        least = as_threshold(threshold, self.parts.decisions)
        strings = as_texts(texts)
        tokens, words = self._encode(strings), self._words_of(strings)
        is_weighted = self._model.scoring == "weighted" and not self._scores_all
        explained: list[list[ExplainedLabel]] = [[] for _ in range(len(tokens))]
        for rows, batch in self._batches(tokens):
            wanted = self._ranker.num_candidates(k, least)
            (best,) = on_host(self._model(batch, predict_k=self._ranker.num_of_cascade(wanted), beam=beam)[-1:])
            nodes, own = best.nodes[: len(rows)].numpy(), best.logits[: len(rows)].numpy()
            features = None if self.parts.evidence is None else host_features(best, len(rows))
            views = TextViews(None if words is None else words[rows], features)
            labels, logits = self._ranker.with_evidence(nodes, own, views, wanted)
            of_cascade = torch.from_numpy(own if self.parts.evidence is None else looked_up(labels, nodes, own))
            shown = LevelPrediction(torch.from_numpy(labels).to(self.device), of_cascade.to(self.device))
            found = explain_batch(self._model, self.parts.tree, batch, shown, is_weighted=is_weighted)
            ids, logits = self._ranker.ranked(labels, logits)
            scores = probabilities(torch.from_numpy(logits)).numpy()
            ids, scores = self._ranker.decided(ids, scores, least)
            for row, labels, row_ids, row_scores in zip(rows.tolist(), found, ids[:, :k], scores, strict=True):
                by_id = {int(self._ranker.label_ids[label.label]): label for label in labels}
                explained[row] = [
                    replace(by_id[label], label=label, name=self.names[label], title=self._title(label), score=score)
                    for label, score in zip(row_ids.tolist(), row_scores.tolist(), strict=False)
                    if label >= 0
                ]
        return explained

    def _title(self, label: int) -> str | None:
        return self.titles[label] if self.titles else None

    def embed(self, texts: Iterable[str]) -> np.ndarray:
        """The input features of the label level, float32 [N, D], or [N, model.bottleneck]."""
        return self.embed_tokens(self._encode(as_texts(texts)))

    @torch.inference_mode()
    def embed_tokens(self, tokens: Ragged) -> np.ndarray:
        """`embed` for token ids of N texts, including special tokens."""
        features = np.zeros((len(tokens), self._model.encoder.feature_sizes[-1]), np.float32)
        for rows, batch in self._batches(tokens):
            last: Tensor = self._model.encoder(batch.input_ids, batch.attention_mask, batch.windows)[-1]
            features[rows] = last[: len(rows)].float().cpu().numpy()
        return features

    def restricted_to(self, labels: Iterable[int | str]) -> Predictor:
        """A predictor restricted to some labels, without the clusters that contain none of them.

        Labels keep their scores (with evidence, if all parts propose them). The beam only contains clusters of allowed
        labels, so other labels cannot displace them.

        Args:
            labels: ids or names; order and repetition do not matter.

        Raises:
            ConfigError: no label is given, one is unknown, a name is ambiguous, or other ranks hold some of the label
                rows.
        """
        self._require_all_rows("restricted_to")
        ids = as_label_ids(labels, self.names, self._ranker.label_ids)
        positions = np.searchsorted(self._ranker.label_ids, ids)
        parts = restrict(self.parts, positions)
        restricted = Predictor(
            parts, calibrated=self.calibrated, batch_size=self.batch_size, device=self.device, precision=self.precision
        )
        restricted._model.encoder = self._model.encoder  # shared, to avoid a second copy
        restricted._ranker = restricted._ranker_of(ids)
        return restricted

    def _ranker_of(self, label_ids: np.ndarray) -> Ranker:
        """What ranks labels; `label_ids` are those of the labels of the tree, int64 [L]."""
        parts = self.parts
        calibration = parts.decisions.calibration if self.calibrated else None
        return Ranker(label_ids, parts.label_weights, parts.evidence, calibration)

    def _words_of(self, texts: list[str]) -> sparse.csr_matrix | None:
        """Tf-idf of whole texts, for a model with a word source."""
        vocabulary = None if self.parts.evidence is None else self.parts.evidence.vocabulary
        return None if vocabulary is None else vocabulary.of_texts(texts)

    def _no_features(self, num_texts: int) -> np.ndarray | None:
        """An array for the features of texts, float32 [N, D], for a model with a source that reads them."""
        width = None if self.parts.evidence is None else self.parts.evidence.width("features")
        return None if width is None else np.zeros((num_texts, width), np.float32)

    def _require_words(self, words: sparse.csr_matrix | None, num_texts: int) -> None:
        num_words = None if self.parts.evidence is None else self.parts.evidence.width("words")
        if num_words is not None and (words is None or words.shape != (num_texts, num_words)):
            wanted = num_texts, num_words
            found = "tokens alone" if words is None else f"words of the shape {words.shape}"
            raise ConfigError(
                "words", None, f"the model needs the words of whole texts, {wanted}, but got {found}",
                "Give the texts to `predict`, or load the model with evidence=False.",
            )  # fmt: skip

    def _batches(self, tokens: Ragged) -> Iterator[tuple[np.ndarray, Batch]]:
        """Row numbers and their batch, longest texts first; every rank gets the same number of batches."""
        vocabulary = self._model.encoder.transformer.config.vocab_size
        if len(tokens.values) and not 0 <= tokens.values.min() <= tokens.values.max() < vocabulary:
            raise ConfigError(
                "tokens", int(tokens.values.max()), f"the encoder's tokens are 0 to {vocabulary - 1}",
                "Use the tokenizer that the model was trained with.",
            )  # fmt: skip
        longest_first = np.argsort(-tokens.lengths, kind="stable")
        most = int(self._exchange.gather_sizes(len(tokens)).max())
        num_batches = math.ceil(most / self.batch_size)
        bounds = cut(len(tokens), num_batches) if most else np.zeros(1, np.int64)
        limits = BatchLimits(texts=max(1, math.ceil(most / max(1, num_batches))), labels=0, labels_of_a_text=0)
        for start, stop in pairwise(bounds):
            rows = longest_first[start:stop]
            own = tokens.take(rows) if len(rows) else _ONE_TOKEN
            none = Ragged(np.zeros(0, np.int32), np.zeros(len(own) + 1, np.int64))
            self.parts.check_rows()  # immediately before reading
            batch = collate(
                own, none, pad_id=self.parts.pad_id, global_size=len(own), limits=limits, rule=self._windows
            )  # fmt: skip
            yield rows, batch.to(self.device)
            self.parts.check_rows()  # discards results if the rows changed in the meantime

    def _checked(self, k: int, beam: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return as_whole_number("k", k), as_beam(beam, len(self.parts.tree.offsets))

    def _encode(self, strings: Sequence[str]) -> Ragged:
        """Token ids of texts; an empty text gets a padding token."""
        try:
            tokens = self._encoder.encode(strings)
        except (TypeError, UnicodeError):
            refuse_surrogates(strings)
            raise
        is_empty = tokens.lengths == 0
        values = np.insert(tokens.values, tokens.offsets[:-1][is_empty], self.parts.pad_id)
        return Ragged(values, lengths_to_offsets(tokens.lengths + is_empty))

    def _require_all_rows(self, what: str) -> None:
        if self._exchange.size > 1:
            problem = f"{what} needs all label rows in one process"
            raise ConfigError("exchange", self._exchange.size, problem, "Load the model without `exchange`.")


_ONE_TOKEN = Ragged(np.zeros(1, np.int32), np.array([0, 1]))
