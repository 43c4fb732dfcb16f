"""A trained model for prediction, with its tokenizer, its tree and the names of its labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from scipy import sparse

from cxml import extras
from cxml.accelerators import device_of
from cxml.config import PredictionPrecision
from cxml.data import Ragged
from cxml.errors import ConfigError
from cxml.metrics import metric_sums
from cxml.model import CascadeXML, LevelPrediction, TappedEncoder
from cxml.model.ranking import probabilities
from cxml.parallel import Exchange
from cxml.prediction import arguments
from cxml.prediction.cascade_runner import CascadeRunner
from cxml.prediction.decisions import as_threshold
from cxml.prediction.encoder_precision import encoder_in, require_precision
from cxml.prediction.encoder_program import refuse_evidence, refuse_windows
from cxml.prediction.explanations import explain_batch, in_ranking
from cxml.prediction.export import write_exported
from cxml.prediction.loading import find_exported, load_parts
from cxml.prediction.packed_rows import RowFormat
from cxml.prediction.parts import Parts, refuse_file
from cxml.prediction.ranker import Ranker, drop_excluded, lookup_logits
from cxml.prediction.results import ExplainedLabel, Predictions
from cxml.prediction.subset import renumber_labels, restrict


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
        precision: PredictionPrecision | None = None,
        exchange: Exchange | None = None,
        encoder: TappedEncoder | None = None,
    ) -> None:
        """Use `from_checkpoint` or `from_pretrained`. `encoder`: of another predictor, which both then share."""
        self.parts = parts
        self.calibrated = calibrated
        self._ranker = Ranker.of(parts, np.arange(parts.tree.num_labels), calibrated=calibrated)
        self.batch_size = arguments.as_whole_number("batch_size", batch_size)
        self.device = device_of(0) if device is None else arguments.as_device(device)
        self._exchange = exchange or Exchange(is_alone=True)
        self.precision: PredictionPrecision = arguments.as_precision(precision or parts.config.evaluate.precision)
        self._cascade = CascadeRunner(
            parts, encoder or encoder_in(parts.model.encoder, self.precision, self.device),
            batch_size=self.batch_size, device=self.device, exchange=self._exchange,
        )  # fmt: skip

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
        precision: PredictionPrecision | None = None,
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
            precision: number format of the encoder: `fp32`, `bf16`, `int8`, or `auto`, which is bf16 if the device
                supports fast bf16 (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16), else fp32; None
                uses the run's evaluate.precision. `int8` is for other CPUs; it predicts slightly different labels, and
                requires the extra `onnx`.
            exchange: the ranks that share the label rows; None for this process only.

        Raises:
            DataError: the model at `url` is missing or incomplete.
            StaleArtefactError: its tree or tokenizer has changed.
            ConfigError: the label rows cannot be mapped or adjusted, the labels cannot be weighted, the model has no
                calibration, this machine does not have the device, or int8 needs a package or another device.
            CxmlError: int8: the encoder cannot be exported, or changes too much in int8.
        """
        url = arguments.as_url(url)
        refuse_file(url)
        device = None if device is None else arguments.as_device(device)
        batch_size = arguments.as_whole_number("batch_size", batch_size)
        if precision is not None:
            require_precision("precision", arguments.as_precision(precision), device or device_of(0))
        logit_adjustment = arguments.as_finite("logit_adjustment", logit_adjustment)
        propensity_ranking = arguments.as_finite("propensity_ranking", propensity_ranking)
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
        return cls.from_checkpoint(find_exported(arguments.as_url(name, "name"), revision), **options)

    def save_pretrained(self, folder: str | PathLike[str], *, rows: RowFormat | None = None) -> None:
        """Export a self-contained folder; see `cxml.prediction.write_exported`.

        Raises:
            ConfigError: other ranks hold some of the label rows.
        """
        folder = arguments.as_url(folder, "folder")
        write_exported(folder, self._whole_parts("save_pretrained", rows))

    def save_onnx(self, folder: str | PathLike[str], *, rows: RowFormat | None = None) -> None:
        """Export a folder that predicts with onnxruntime only; see `cxml.prediction.onnx_export.write_onnx`.

        Raises:
            ConfigError: other ranks hold some of the label rows, a package of the extra `onnx` is missing, or the
                model has evidence or windows, which this form does not support.
        """
        refuse_evidence(self.parts.evidence, "form", "onnx")
        refuse_windows(self.parts.config, "form", "onnx")
        folder = arguments.as_url(folder, "folder")
        extras.require("save_onnx", folder, *extras.EXTRAS["onnx"])
        from cxml.prediction.onnx_export import write_onnx  # noqa: PLC0415 - optional

        parts = self._whole_parts("save_onnx", rows)
        write_onnx(folder, parts, Predictor(parts, device="cpu", precision="fp32").predict_tokens)

    @property
    def model(self) -> CascadeXML:
        """The model with its label head."""
        return self._cascade.model

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
        strings = arguments.as_texts(texts)
        tokens, words = self._cascade.encode(strings), self._ranker.words_of(strings)
        return self.predict_tokens(tokens, k, threshold=threshold, beam=beam, excluded=excluded, words=words)

    def evaluate(
        self, texts: Iterable[str], labels: Sequence[Iterable[str] | str], ks: Sequence[int] = (1, 3, 5)
    ) -> dict[str, float]:
        """Evaluate the model's rankings on labelled texts.

        Args:
            texts: N texts, see `predict`.
            labels: for each text the names of its labels, or one name, in a list, array, Series or Arrow array. Names
                that the model does not have count as misses.
            ks: the cut-offs.

        Returns:
            P@k, RP@k, recall@k and nDCG@k in percent, by name.

        Raises:
            ConfigError: `texts` is empty, or its length differs from that of `labels`.
            ConfigError: an item of `labels` or a cut-off is invalid.
        """
        cutoffs = arguments.as_cutoffs(ks)
        found = self.predict(texts, max(cutoffs))
        true = arguments.indicators_of(arguments.as_names_of_texts(labels, len(found)), self.names)
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
        views = self._ranker.new_views(words, len(tokens))
        least = as_threshold(threshold, self.parts.decisions)
        excluded = arguments.as_excluded(excluded, len(tokens), len(self.names))
        most = max((len(labels) for labels in excluded.values()), default=0)
        wanted = self._ranker.num_candidates(k, least, int(self._exchange.gather_sizes(most).max()))
        candidates = self._ranker.num_of_cascade(wanted)
        labels, logits = self._cascade.best_labels(tokens, candidates, beam, views)
        labels, logits = self._ranker.rank(*self._ranker.with_evidence(labels, logits, views, wanted))
        labels, scores = drop_excluded(labels, probabilities(torch.from_numpy(logits)).numpy(), excluded)
        labels, scores = self._ranker.apply_threshold(labels, scores, least)
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
        strings = arguments.as_texts(texts)
        tokens = self._cascade.encode(strings)
        views = self._ranker.new_views(self._ranker.words_of(strings), len(tokens))
        wanted = self._ranker.num_candidates(k, least)
        candidates = self._ranker.num_of_cascade(wanted)
        explained: list[list[ExplainedLabel]] = [[] for _ in range(len(tokens))]
        for rows, batch in self._cascade.batches(tokens):
            nodes, own = self._cascade.best_of_batch(rows, batch, candidates, beam, views)
            labels, logits = self._ranker.with_evidence(nodes, own, views.take(rows), wanted)
            of_cascade = torch.from_numpy(own if self.parts.evidence is None else lookup_logits(labels, nodes, own))
            shown = LevelPrediction(torch.from_numpy(labels).to(self.device), of_cascade.to(self.device))
            found = explain_batch(self.model, self.parts.tree, batch, shown, is_weighted=self._cascade.is_weighted)
            ids, logits = self._ranker.rank(labels, logits)
            ids, scores = self._ranker.apply_threshold(ids, probabilities(torch.from_numpy(logits)).numpy(), least)
            best = Predictions(ids[:, :k], scores[:, :k], self.names, self.titles)
            for row, of_text in zip(rows.tolist(), in_ranking(found, best, self._ranker.label_ids), strict=True):
                explained[row] = of_text
        return explained

    def embed(self, texts: Iterable[str]) -> np.ndarray:
        """The input features of the label level, float32 [N, D], or [N, model.bottleneck]."""
        return self.embed_tokens(self._cascade.encode(arguments.as_texts(texts)))

    @torch.inference_mode()
    def embed_tokens(self, tokens: Ragged) -> np.ndarray:
        """`embed` for token ids of N texts, including special tokens."""
        return self._cascade.features(tokens)

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
        ids = arguments.as_label_ids(labels, self.names, self._ranker.label_ids)
        positions = np.searchsorted(self._ranker.label_ids, ids)
        parts = restrict(self.parts, positions)
        restricted = Predictor(
            parts, calibrated=self.calibrated, batch_size=self.batch_size, device=self.device, precision=self.precision,
            encoder=self.model.encoder,
        )  # fmt: skip
        restricted._ranker = Ranker.of(parts, ids, calibrated=self.calibrated)
        return restricted

    def _whole_parts(self, what: str, rows: RowFormat | None) -> Parts:
        """The parts with labels numbered from 0 and rows in a number format (None: unchanged); `what` is for errors."""
        self._require_all_rows(what)
        self.parts.check_rows()
        parts = renumber_labels(self.parts, self._ranker.label_ids)
        return parts if rows is None else replace(parts, rows=parts.rows.to(rows))

    def _checked(self, k: int, beam: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return arguments.as_whole_number("k", k), arguments.as_beam(beam, len(self.parts.tree.offsets))

    def _require_all_rows(self, what: str) -> None:
        if self._exchange.size > 1:
            problem = f"{what} needs all label rows in one process"
            raise ConfigError("exchange", self._exchange.size, problem, "Load the model without `exchange`.")
