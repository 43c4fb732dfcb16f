"""The sections `evidence` and `evaluate`: what scores rest on besides the cascade, and how they are measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cxml.config.fields import PredictionPrecision, require, require_at_least, setting


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """Sources of evidence that predict beside the cascade.

    The weights of the sources are learnt on validation texts: those of a split `validation` of the data set, or of
    train.validation_fraction. The sources are a part of the saved model. To add them to a finished run with validation
    texts, run its command again with these fields; the model is not trained again.
    """

    words: bool = setting(False, choosable=True)
    """Also train a sparse linear model of the words of whole texts, which takes seconds."""
    neighbours: bool = setting(False, choosable=True)
    """Also let the train texts with the most similar features vote for their labels (an idea of RAE-XMC). Takes two
    bytes per number of a text's feature. Requires faiss: pip install 'cxml[neighbours]'."""
    names: bool = setting(False, choosable=True)
    """Also propose the labels whose names have the features most similar to the text's, so labels without a train text
    can be predicted. train.name_texts selects the part of a name to use; empty: all of it. With a labels
    file (data.source.labels_file), titles and descriptions are used instead of names. Requires faiss."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the enabled sources, in a model's order."""
        return tuple(each.name for each in dataclasses.fields(self) if getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Prediction on the test split, and its report."""

    batch_size: int = 128
    """Number of texts per batch and process."""
    top_k: tuple[int, ...] = (1, 3, 5)
    """Values of k of P@k, RP@k, nDCG@k, PSP@k, PSnDCG@k and recall@k."""
    precision: PredictionPrecision = "auto"
    """Number format in which the encoder predicts, in the evaluation and by default in later predictions. `auto`: bf16
    if the device computes fast in it (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16), else fp32.
    `int8`: linear layers compute in int8 with onnxruntime, for other CPUs; labels differ slightly. Requires pip install
    'cxml[onnx]'. Features and scores are always fp32."""
    wanted_precision: float = 0.9
    """Share of correct decisions, above 0 and at most 1, that the threshold named `precision` aims for. Thresholds are
    chosen on the validation texts (train.validation_fraction)."""
    baseline: bool = False
    """Also train a linear model on tf-idf (omikuji's Parabel) on the same split, and report its metrics."""
    examples: int = 3
    """Number of test texts that the report shows with their best labels."""

    def __post_init__(self) -> None:
        require_at_least("evaluate.batch_size", self.batch_size, 1)
        require(bool(self.top_k), "evaluate.top_k", self.top_k, "is empty", "Use [1, 3, 5].")
        for k in self.top_k:
            require_at_least("evaluate.top_k", k, 1)
        require_at_least("evaluate.examples", self.examples, 0)
        require(
            0 < self.wanted_precision <= 1, "evaluate.wanted_precision", self.wanted_precision,
            "must be above 0 and at most 1", "Use 0.9 for a precision of 90 %.",
        )  # fmt: skip
